"""Expressions hold at workloads other than those they were read off: against real passes at odd sizes, hook by hook."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import dataclass, field

import pytest
import sympy
import torch
from torch import nn

from oplib.symbols import B, P, S, evaluate
from tests.tracer import small_models
from tests.tracer.small_models import SMALL, each
from tests.tracer.test_conservation import eager, full
from tracer import analysis, assemble
from tracer.match import match
from tracer.match.flow import Flow
from tracer.trace import trace

#: (batch, lengths of the passes over one cache): each pass after the first has the lengths before it cached.
WORKLOADS = [(5, (37, 29, 1)), pytest.param(3, (1, 61, 1), marks=pytest.mark.slow)]


@dataclass
class Seen:
    """Products of one pass: (rows, n, k) -> how often."""

    linears: Counter = field(default_factory=Counter)


@functools.cache
def seen(name: str, batch: int, lengths: tuple[int, ...]) -> list[Seen]:
    """What the full model runs in each pass, read by hooks."""
    model, cache, found = full(name), None, []
    handles = []

    def linear(module: nn.Linear, _args, out):
        rows = out.numel() // out.shape[-1]
        found[-1].linears[rows, module.out_features, module.in_features] += 1

    for module in model.modules():
        if type(module) is nn.Linear:
            handles.append(module.register_forward_hook(linear))
    try:
        for length in lengths:
            found.append(Seen())
            ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
            cache = small_models.step(model, ids, cache)
    finally:
        for handle in handles:
            handle.remove()
    return found


def linear_modules(name: str) -> set[str]:
    """Paths (of layer 0's kind) whose module is a plain linear layer."""
    return {path for path, m in full(name).named_modules() if type(m) is nn.Linear}


@pytest.mark.parametrize("name", each())
@pytest.mark.parametrize(("batch", "lengths"), WORKLOADS)
def test_products_have_the_sizes_of_a_real_pass(name, batch, lengths):
    """Every linear module's (rows, n, k), as often as the full model runs it, at odd sizes, p = 0 included."""
    paths = linear_modules(name)
    done = 0
    for length, real in zip(lengths, seen(name, batch, lengths), strict=True):
        phase = "generation" if length == 1 and done else "context"
        ours: Counter = Counter()
        for op in eager(name)[phase]:
            if op.op == "gemm" and any(place in paths for place in op.where):
                rows = op.dims_at(b=batch, s=length, p=done)["m"]
                ours[rows, op.params["n"], op.params["k"]] += op.count
        assert ours == real.linears, (phase, length, done)
        done += length


def expressions(name: str, phase: str, *, symbolic: bool) -> list[dict]:
    """The op list as written of one phase, traced with symbols or read off concrete workloads."""
    found = small_models.traced(name)
    one = (
        trace(found.model, found.capture, phase, symbolic=True) if symbolic else found.traces[phase]
    )
    ops = assemble.ops(match(Flow(one, found.pruning)), small_models.weights(name))
    return [
        {
            "op": o.op,
            "name": o.name,
            "params": dict(o.params),
            **{k: sympy.expand(v) for k, v in o.dims.items()},
        }
        for o in ops
    ]


AT = ({"b": 3, "s": 41, "p": 977}, {"b": 1, "s": 130, "p": 64}, {"b": 17, "s": 2, "p": 4099})


@pytest.mark.parametrize("name", ["llama", "gpt_oss", pytest.param("deepseek_v32", marks=pytest.mark.slow),
                                  pytest.param("nemotron_h", marks=pytest.mark.slow),
                                  pytest.param("qwen3_next", marks=pytest.mark.slow),
                                  pytest.param("llama4", marks=pytest.mark.slow),
                                  pytest.param("jamba", marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.parametrize("phase", ["context", "generation"])
def test_concrete_and_symbolic_tracing_agree(name, phase):
    """Two ways to the same expressions: sizes read off two workloads, and sizes that were symbols all along."""
    concrete, symbolic = (expressions(name, phase, symbolic=s) for s in (False, True))
    assert [o["name"] for o in concrete] == [o["name"] for o in symbolic]
    for ours, theirs in zip(concrete, symbolic, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["params"] == theirs["params"], ours["name"]
        for key in ours.keys() - {"op", "name", "params"}:
            for at in AT:
                where = at | ({"s": 1} if phase == "generation" else {})
                assert evaluate(ours[key], **where) == evaluate(theirs[key], **where), (
                    ours["name"],
                    key,
                    where,
                )


#: Sizes that coincide with those of the workloads a trace is read off.
COINCIDENCES = (
    {"vocab_size": 101, "intermediate_size": 113},
    {"vocab_size": 128 * 103, "intermediate_size": 24},
    {
        "hidden_size": 49,
        "num_attention_heads": 7,
        "num_key_value_heads": 7,
        "intermediate_size": 56,
        "vocab_size": 24,
    },
)


@pytest.mark.parametrize(
    "sizes",
    [COINCIDENCES[0], *(pytest.param(c, marks=pytest.mark.slow) for c in COINCIDENCES[1:])],
    ids=str,
)
def test_sizes_of_the_model_that_look_like_a_workload(sizes, tmp_path):
    """A hidden size that equals a traced batch or length stays a constant, and the batch stays a batch."""
    config = {**SMALL["llama"], **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    traced = analysis.trace_model(str(tmp_path))
    found = analysis.report(traced, analysis.Options(lowering="eager"))
    assert found["conservation"]["exact"]
    for phase, rows in (("context", B * S), ("generation", B)):
        ops = found["op_list"]["phases"][phase]
        down = next(o for o in ops if o["name"].endswith("down_proj"))
        assert sympy.sympify(down["dims"]["m"], locals={"b": B, "s": S, "p": P}) == rows
        assert down["params"]["k"] == config["intermediate_size"]
        head = next(o for o in ops if o["name"] == "lm_head")
        assert head["params"]["n"] == config["vocab_size"]


@pytest.mark.parametrize("name", each())
def test_work_grows_with_the_workload(name):
    """FLOPs and bytes of every op are positive (or zero work) and never fall with batch, length or cache."""
    for phase, ops in eager(name).items():
        for op in ops:
            base = {"b": 3, "s": 1 if phase == "generation" else 29, "p": 31}
            for axis in ("b", "s", "p") if phase == "context" else ("b", "p"):
                more = {**base, axis: base[axis] * 2 + 1}
                assert op.flops_at(**base) <= op.flops_at(**more), (phase, op.name, axis)
                assert 0 < op.bytes_at(**base) <= op.bytes_at(**more), (phase, op.name, axis)
