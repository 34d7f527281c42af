"""Every unknown step in every supported model: found at its file and line, in both phases, and nothing else changes."""

from __future__ import annotations

import functools
from collections import Counter

import pytest

from tests.tracer import mutants, small_models
from tracer import analysis

FAST = {("llama", "MLP", "autograd function"), ("qwen3_moe", "router", "operator of a library")}


def known(report: dict) -> Counter:
    """The ops of a report that are no memory-bound work."""
    return Counter(
        (phase, o["op"], str(o["params"]), str(o["dims"]), o["count"])
        for phase, ops in report["op_list"]["phases"].items()
        for o in ops
        if o["op"] != "pointwise"
    )


@functools.cache
def unchanged(model: str) -> Counter:
    return known(small_models.report(model, "eager"))


def changed(model: str, place: str, step: str) -> dict:
    """The report of a model with a step put in."""
    with mutants.inserted(model, place, step):
        return analysis.analyse(small_models.folder(model), analysis.Options(lowering="eager"))


def flagged(report: dict, step: str) -> bool:
    """Whether a report shows the step's primitive at its line in both phases, and no other."""
    seen = {(u["phase"], u["primitive"], u["source"]) for u in report["unsupported"]}
    source = f"mutants.py:{mutants.line_of(step)}"
    expected = {(p, mutants.STEPS[step][0], source) for p in ("context", "generation")}
    return report["situation"] == "S3" and seen == expected


def params() -> list:
    return [c if c in FAST else pytest.param(*c, marks=pytest.mark.slow) for c in mutants.cases()]


def test_the_table_is_large():
    """Families, steps and places; no case twice."""
    cases = mutants.cases()
    assert len(mutants.PLACES) >= 6
    assert len(mutants.STEPS) >= 12
    assert len(set(cases)) == len(cases) == len(mutants.PLACES) * len(mutants.STEPS)
    places = {(model, place) for model, place, _ in cases}
    assert places == {(m, p) for m, of in mutants.PLACES.items() for p in of}


@pytest.mark.parametrize(("model", "place", "step"), params())
def test_a_step_is_found_where_it_stands(model, place, step):
    """S3 with the primitive, file and line in both phases; conservation is exact, the other ops are the same."""
    found = changed(model, place, step)
    assert flagged(found, step), found["unsupported"]
    assert found["conservation"]["exact"]
    assert known(found) == unchanged(model)
