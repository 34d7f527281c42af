"""A model path is lowered as the tables that are asked measured ops, unless another lowering is named."""

from __future__ import annotations

import json
from functools import cache

import pytest

from models import cli as pricing
from tests.tracer import small_models
from tracer import cli as tracing

TORCH = ("--system", "h100_sxm", "--backend", "torch")


@cache
def traced(lowering):
    """The names of the ops of a small model under a lowering."""
    found = small_models.report("llama", lowering)
    return [(op["name"], op["op"]) for op in found["op_list"]["phases"]["context"]]


@pytest.mark.parametrize(
    ("options", "lowering"),
    [
        ((), "serving"),
        (TORCH, "torch"),
        ((*TORCH, "--lowering", "serving"), "serving"),
        (("--lowering", "torch"), "torch"),
    ],
)
def test_price_model(capsys, options, lowering):
    """The priced ops are those of the lowering; tables of an engine, and none, go with what engines run."""
    argv = [small_models.folder("llama"), "--isl", "64", "--osl", "1", "--json", *options]
    assert pricing.main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(op["name"], op["op"]) for op in found["ops"]] == traced(lowering)
    said = any("was made with --lowering" in note for note in found["notes"])
    assert said == (options == (*TORCH, "--lowering", "serving"))


@pytest.mark.slow
@pytest.mark.parametrize(("more", "lowering"), [((), "torch"), (("--lowering", "eager"), "eager")])
def test_trace_model(capsys, more, lowering):
    """What is to be measured for a backend is what its tables would hold."""
    assert tracing.main([small_models.folder("llama"), *TORCH, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["op_list"]["lowering"] == lowering


def test_lowerings_differ():
    assert traced("torch") != traced("serving")
