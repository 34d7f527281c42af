"""Activations: what a real pass holds at its fullest moment, against the live ranges of the traced graph."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from oplib.symbols import evaluate, parse_expr
from tests.tracer import small_models
from tests.tracer.living import Living
from tracer import analysis
from tracer.build import quiet_transformers
from tracer.cache import leaves

#: Models whose real attention stores no scores and whose layers have no scan or loop over experts: what runs is what
#: is traced.
DENSE = ["llama", "llama_tied", "qwen3", "phi3", "cohere"]
#: Hidden states that Python's variables keep alive beyond their last use (embeddings, a norm's result, positions).
HELD_BY_NAMES = 4


def fullest(report: dict, phase: str, **at: int) -> float:
    """Bytes at the fullest moment of a phase."""
    return max(
        evaluate(parse_expr(text), **at)
        for peak in report["activations"][phase]["peaks"]
        for text in [peak["bytes"]]
    )


def run(name: str, b: int, prompt: int, new: int) -> tuple[int, int]:
    """Most bytes alive during a prompt, and during a pass of new tokens behind it; the caches left out."""
    torch.manual_seed(0)
    config = small_models.SMALL[name]
    with quiet_transformers():
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
    cache, found = None, []
    for length in (prompt, new):
        ids = torch.randint(3, 100, (b, length))
        with torch.no_grad(), Living() as living:
            cache = small_models.step(model, ids, cache)
        left = [value for _, value in leaves(cache) if isinstance(value, torch.Tensor)]
        found.append(living.peak(left))
    return found[0], found[1]


@pytest.mark.parametrize("name", DENSE)
def test_a_real_pass_holds_what_the_graph_says(name):
    """Never less, and more only by what Python's names keep alive."""
    report = analysis.analyse(
        small_models.write(small_models.SMALL[name], name), analysis.Options(lowering="eager")
    )
    b, prompt = 3, 300
    real = run(name, b, prompt, 1)
    hidden = 2 * small_models.SMALL[name]["hidden_size"]
    for phase, measured, s, p in (
        ("context", real[0], prompt, 0),
        ("generation", real[1], 1, prompt),
    ):
        told = fullest(report, phase, b=b, s=s, p=p)
        assert told <= measured <= told + HELD_BY_NAMES * b * s * hidden, (phase, measured / told)
