"""Compiling ahead: one case stands for all that share a compilation, and a helper that fails stops nothing."""

from __future__ import annotations

import pytest

from collector import ahead
from collector.grids import grid_cases
from collector.worker import Task
from oplib.case import Case
from oplib.kernels import hardware
from oplib.kernels.hardware import Hardware
from oplib.registry import kind
from perfdb.systems import load_system

SYSTEM = load_system("h200_sxm")


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Hardware(type="cuda", name="H200", capability=(9, 0))
    monkeypatch.setattr(hardware, "hardware", lambda device: found)


def tasks(op: str, variant: str = "") -> list[Task]:
    return [Task(case=case, variant=variant) for case in grid_cases(op, "h200_sxm")]


def of_tasks(given: list[Task]) -> list[tuple[Case, str]]:
    """Representatives without the examples that come first."""
    found = ahead.representatives(given, SYSTEM, "cuda")
    asked = {task.case.case_id for task in given}
    first = [case.case_id in asked for case, _ in found].index(True)
    assert 0 < first <= 3
    return found[first:]


def test_one_case_stands_for_a_compilation() -> None:
    """Experts compile once per set of parameters for each few tokens and once for more; the case is one of them."""
    given = tasks("moe")
    found = of_tasks(given)
    sets = {
        (*params.items(), m if m * params["top_k"] <= 512 else "any")
        for params, m in ((task.case.params, task.case.dims["m"]) for task in given)
    }
    assert len(found) == len(sets)
    assert {name for _, name in found} == {"grouped_mm_compiled"}
    assert {case.case_id for case, _ in found} <= {task.case.case_id for task in given}
    again = of_tasks(given[::-1])
    assert {case.case_id for case, _ in again} == {case.case_id for case, _ in found}


def test_what_is_not_compiled_needs_none() -> None:
    assert ahead.representatives(tasks("gemm"), SYSTEM, "cuda") == []


def test_constants_of_the_code_tell_compilations_apart() -> None:
    """flex_attention of one query has the batch as a constant, of a prompt only a batch of 1."""
    heads = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, "v_head_dim": 64, "sinks": True,
             "dtype": "bfloat16", "kv_dtype": "bfloat16"}  # fmt: skip
    for op, s, count in (("generation_attention", 1, 3), ("context_attention", 64, 2)):
        params = kind(op).complete(heads)
        given = [
            Task(case=Case(op=op, params=params, dims={"b": b, "s": s, "p": p}), variant="flex")
            for b in (1, 2, 4)
            for p in (0, 100)
        ]
        assert len(of_tasks(given)) == count


@pytest.mark.slow
def test_helpers_work_through_all_and_end(capfd: pytest.CaptureFixture[str]) -> None:
    """Cases that fail are told; the processes end by themselves long before their time is over."""
    shape = {"channels": 8, "kernel_size": 4, "activation": "silu", "bias": False}
    params = kind("causal_conv1d").complete({**shape, "dtype": "float32"})
    bad = kind("causal_conv1d").complete({**shape, "dtype": "float32", "activation": "sine"})
    given = [
        (Case(op="causal_conv1d", params=params, dims={"b": 1, "s": s}), "eager")
        for s in range(1, 25)
    ]
    given.append((Case(op="causal_conv1d", params=bad, dims={"b": 1, "s": 5}), "eager"))
    took = ahead.compile_ahead(given, "cpu", processes=2, seconds=120)
    assert 0 < took < 110
    said = capfd.readouterr().err
    assert said.count("not compiled ahead: eager of causal_conv1d") == 1
    assert ahead.compile_ahead(given[:3], "cpu", processes=2, seconds=60) == 0.0
