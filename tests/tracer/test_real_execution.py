"""Over a hundred types against real execution: full depth, random weights, on the CPU, by transformers alone.

The op list as written is evaluated at workloads and compared with what a run did there: FLOPs of torch's counter,
bytes of the parameters, bytes of the cache. Not for a model whose work depends on the values of its data (experts that
do nothing, as LongCat's).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from oplib.op import Op
from oplib.symbols import evaluate, parse_expr
from tests.tracer import real, shrunk, small_models
from tests.tracer.older import angles_by_product
from tracer import analysis, assemble, held, idle
from tracer.match import match
from tracer.match.flow import Flow
from tracer.weights import Weights

FAST = ("afmoe", "bloom", "falcon_h1", "gemma3", "qwen3_next")
#: Batch, new tokens of the prompt, new tokens of the pass after it: lengths of one, odd, around the window, beyond it.
W = shrunk.WINDOW
WORKLOADS = (
    (1, 1, 1),
    (1, 7, 1),
    (3, W - 1, 1),
    (2, W, 1),
    (1, W + 1, 1),
    (2, 48, 1),
    (1, 37, 3),
    (2, 20, 13),
)


def more_at_first(model_type: str, b: int, s: int) -> int:
    """What the counter sees more of a pass over no cache, where that runs other code than the traced pass over one."""
    if (
        model_type == "zaya"
    ):  # the values of a token before the first, in each of 4 layers: 64 by 16
        return b * 4 * 2 * 64 * 16
    if model_type == "recurrent_gemma" and s == 1:
        return (
            -b * 3 * 2 * 64 * 4 * 4
        )  # a sum, no convolution of 64 channels, 4 taps, 4 places, in 3 layers
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What the tracer says of a model."""

    ops: dict[str, tuple[Op, ...]]
    parameter_bytes: int
    idle_bytes: int
    unread: dict[str, int]  # by phase, bytes of the parameters that no call of it reads
    cache_bytes: Any  # an expression of sympy

    def flops(self, phase: str, b: int, s: int, p: int) -> int:
        """FLOPs of the ops of a phase, without kinds that the counter does not know."""
        seen = (o for o in self.ops[phase] if o.kind.counted)
        return sum(o.count * o.flops_at(b=b, s=s, p=p) for o in seen)


@functools.cache
def listed(model_type: str) -> Listed:
    """Traced from the config alone."""
    folder = small_models.write(shrunk.shrunk(model_type), model_type)
    traced = analysis.trace_model(folder)
    weights = Weights(model=traced.model, pruning=traced.pruning, scheme=traced.scheme)
    ops = {}
    for phase, found in traced.traces.items():
        matched = match(Flow(found, traced.pruning))
        assemble.set_modes(matched, weights)
        ops[phase] = assemble.ops(matched, weights)
    unread = {}
    for phase, found in traced.traces.items():
        names = idle.unread(traced.model, [found])
        unread[phase] = sum(entry["bytes"] for entry in idle.describe(names, weights, ()))
    cache = parse_expr(held.kv_cache(traced, {})["expression"])
    return Listed(
        ops=ops,
        parameter_bytes=weights.total(),
        idle_bytes=sum(entry["bytes"] for entry in idle.describe(traced.idle, weights, ())),
        unread=unread,
        cache_bytes=cache,
    )


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors this small are faster without threads, and test processes do not wait for each other's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def types() -> list[Any]:
    """Every type, those that are not fast marked slow."""
    marks = {"deepseek_v4": [pytest.mark.slow, angles_by_product]}
    return [
        n if n in FAST else pytest.param(n, marks=marks.get(n, pytest.mark.slow))
        for n in shrunk.AVAILABLE
    ]


def test_enough_types():
    """The small configs cover what this version of transformers has, each type once."""
    assert len(set(shrunk.TYPES)) == len(shrunk.TYPES) >= 120
    assert len(shrunk.AVAILABLE) >= 60
    assert set(FAST) <= set(shrunk.AVAILABLE)


@pytest.mark.parametrize("model_type", types())
def test_a_run_does_what_the_list_says(model_type):
    """FLOPs and cache of each pass, at each workload; parameters once."""
    model, claim = real.build(shrunk.shrunk(model_type)), listed(model_type)
    assert claim.parameter_bytes == real.parameter_bytes(model)
    assert claim.unread["context"] == claim.idle_bytes
    for phase, ops in claim.ops.items():
        assert sum(o.get_weights() for o in ops) + claim.unread[phase] == claim.parameter_bytes
    for b, prompt, more in WORKLOADS:
        first, second = real.passes(model, b, prompt, more)
        found = {
            "prompt": (first.flops, first.cache_bytes),
            "next": (second.flops, second.cache_bytes),
        }
        phase = "generation" if more == 1 else "context"
        expected = {
            "prompt": (claim.flops("context", b, prompt, 0) + more_at_first(model_type, b, prompt),
                       evaluate(claim.cache_bytes, b=b, p=prompt)),
            "next": (claim.flops(phase, b, more, prompt), evaluate(claim.cache_bytes, b=b, p=prompt + more)),
        }  # fmt: skip
        assert found == expected, (b, prompt, more)
