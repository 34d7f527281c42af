"""Symbolic evaluation equals re-tracing: every size of a trace, evaluated at workloads it has not seen."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from oplib.symbols import P, S
from tests.tracer import shrunk, small_models, toy
from tests.tracer.test_published import FOREIGN, PUBLISHED
from tests.tracer.test_published import NAMES as PUBLISHED_NAMES
from tracer import analysis
from tracer.retrace import retrace, unseen
from tracer.sizes import LONG, LONG_AGAIN, LONG_ODD, SHORT
from tracer.trace import PHASES, capture, trace

FAST = ("deepseek_v3", "gemma3", "nemotron_h")


@functools.cache
def small(model_type: str) -> analysis.Traced:
    return analysis.trace_model(small_models.write(shrunk.shrunk(model_type), model_type))


def types() -> list:
    return [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in shrunk.AVAILABLE]


def differences(found: analysis.Traced) -> list[str]:
    return [
        difference
        for one in found.traces.values()
        for workload in unseen(one)
        for difference in retrace(found.model, found.capture, one, workload)
    ]


@pytest.mark.parametrize("model_type", types())
def test_a_trace_holds_at_other_workloads(model_type):
    """Both phases, two workloads each: the same operators, and the sizes that the expressions say."""
    assert differences(small(model_type)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PUBLISHED_NAMES if n not in FOREIGN])
def test_a_published_model_holds_at_other_workloads(name):
    """The same for the published configs."""
    assert differences(analysis.trace_model(str(PUBLISHED / name))) == []


@pytest.mark.parametrize("phase", PHASES)
def test_the_workloads_are_new(phase):
    """None of them is one that a trace is read off or confirmed at, and generation has one new token."""
    for branches in (False, True):
        one = dataclasses.replace(small("gemma3").traces[phase], branches=branches)
        for workload in unseen(one):
            assert all(workload["p"] != seen["p"] for seen in (LONG, LONG_AGAIN, LONG_ODD, SHORT))
            assert (workload["s"] == 1) == (phase == "generation")


def test_a_wrong_expression_is_found():
    """A size that is off by one shows, with the node, both sizes and the workload."""
    found = small("gemma3")
    right = found.traces["context"]

    def off_by_one(size):
        return right.expr(size) + (1 if right.expr(size).has(P) else 0)

    wrong = dataclasses.replace(right, expr=off_by_one)
    (first, *_) = retrace(found.model, found.capture, wrong, unseen(wrong)[0])
    assert "+ 1" in first
    assert str(dict(unseen(wrong)[0])) in first


def test_another_operator_is_found():
    """A model that takes another branch at a workload is not said to hold there."""
    model = toy.Toy(lambda _m, x: x.exp() if x.shape[1] in (24, 128 * 103) else x.sin()).eval()
    captured = capture(model)
    one = trace(model, captured, "context")
    assert one.expr(LONG["s"]) == S
    (difference,) = retrace(model, captured, one, {"b": 3, "s": 77, "p": 345})
    assert "another operator" in difference
