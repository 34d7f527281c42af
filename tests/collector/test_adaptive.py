"""Adaptive cases: a grid of known times is measured where interpolation is off, until it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

from collector import adaptive
from collector.adaptive import FIRST, refine
from collector.grids import spread_out
from oplib.case import Case
from oplib.registry import kind
from perfdb.estimator import Estimator
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system
from tests.collector.running import collect

SYSTEM = load_system("h200_sxm")
KIND = kind("gemm")
PARAMS = KIND.complete({"n": 4096, "k": 4096, "dtype": "bfloat16"})
SHAPES = [
    KIND.complete({**PARAMS, "n": n, "k": k}) for n in (1024, 4096, 12288) for k in (1024, 4096)
]
SIZES = sorted({int(2 ** (i / 4)) for i in range(4, 57)})


def grid() -> list[Case]:
    return spread_out([Case(op="gemm", params=p, dims={"m": m}) for p in SHAPES for m in SIZES])


def latency(case: Case, bump: float) -> float:
    """The bound at an efficiency that falls by a wave around m = 300, `bump` high."""
    m = case.dims["m"]
    wave = bump * numpy.exp(-((numpy.log2(m) - numpy.log2(300)) ** 2) * 2)
    return (float(bound_ms(KIND, case.params, case.dims, SYSTEM)) + 0.004) * 1.3 * (1 + wave)


def row(case: Case, bump: float, status: str = "ok") -> dict:
    timing = {
        "latency": latency(case, bump), "samples": 9, "spread": 0.0, "clock_after": 0, "clock_before": 0,
        "throttled": [], "calls": 1, "graph": True, "flushed": False, "converged": True,
    }  # fmt: skip
    return {
        "what": "time", "variant": "synthetic", "case_id": case.case_id, "op": case.op, "date": "1",
        "params": dict(case.params), "dims": dict(case.dims), "status": status, "timing": timing,
    }  # fmt: skip


def measured(bump: float, target: float) -> tuple[list[dict], list[str]]:
    """Rounds until nothing is asked for."""
    rows: list[dict] = []
    said = []
    while True:
        state = refine(grid(), rows, SYSTEM, target)
        said.append(str(state))
        if not state.next:
            return rows, said
        assert not {c.case_id for c in state.next} & {r["case_id"] for r in rows}
        rows += [row(case, bump) for case in state.next]


def test_a_smooth_grid_needs_few_cases() -> None:
    """A constant efficiency is known after the first cases; what is said names rows, cases and error."""
    rows, said = measured(0.0, 0.05)
    assert FIRST <= len(rows) < len(grid()) / 3
    assert f"{len(rows)} of {len(grid())} cases measured" in said[-1]


def test_what_is_rough_is_measured_more() -> None:
    """A wave in the middle of the sizes takes more cases than a smooth grid, and more of them where the wave is; at the
    end the rows foretell the rest of the grid about as well as was asked."""
    smooth, _ = measured(0.0, 0.05)
    rows, _ = measured(0.5, 0.05)
    assert len(smooth) < len(rows) < len(grid()) / 2
    near = [r for r in rows[FIRST:] if 75 <= r["dims"]["m"] <= 1200]
    share_of_grid = sum(75 <= m <= 1200 for m in SIZES) / len(SIZES)
    assert len(near) / len(rows[FIRST:]) > share_of_grid
    assert numpy.quantile(true_errors(rows, 0.5), 0.9) <= 0.05


def true_errors(rows: list[dict], bump: float) -> numpy.ndarray:
    """Of the whole grid, by a fit of the rows."""
    group = adaptive._group(KIND, rows, SYSTEM)
    found = Estimator.fit(group).estimate(adaptive._points(grid()))
    bounds = numpy.array([float(bound_ms(KIND, c.params, c.dims, SYSTEM)) for c in grid()])
    truth = numpy.array([latency(case, bump) for case in grid()])
    return numpy.abs((bounds + group.launch) * numpy.exp(found.value) / truth - 1)


def test_rows_of_a_killed_run_count() -> None:
    """Half of the rows of a run, and one that failed: the next round asks for others."""
    rows, _ = measured(0.5, 0.05)
    half = rows[: len(rows) // 2]
    seen = {r["case_id"] for r in rows}
    failed = row(next(c for c in grid() if c.case_id not in seen), 0.0, "error")
    state = refine(grid(), [*half, failed], SYSTEM, 0.05)
    asked = {case.case_id for case in state.next}
    assert asked
    assert not asked & {r["case_id"] for r in [*half, failed]}
    assert state.rows == len(half)


def test_a_grid_without_rows_starts_with_each_group() -> None:
    other = [
        Case(op="gemm", params={**p, "dtype": "fp8"}, dims={"m": m}) for p in SHAPES for m in SIZES
    ]
    state = refine(grid() + spread_out(other), [], SYSTEM, 0.05)
    count = {
        dtype: sum(c.params["dtype"] == dtype for c in state.next) for dtype in ("bfloat16", "fp8")
    }
    assert count == {"bfloat16": FIRST, "fp8": FIRST}


@pytest.mark.slow
def test_the_command_refines_and_resumes(tmp_path: Path) -> None:
    """On the CPU: rounds are said, the budget ends them, a second run goes on, misuse is told."""
    arguments = ("--ops", "causal_conv1d", "--models", "Qwen3.5-35B", "--adaptive")
    out = tmp_path / "log"
    status, printed, said = collect(out, *arguments, "--target", "200", "--budget", "15")
    assert status == 0, said
    assert "of the grid within not known yet" in said
    first = printed["rows"]
    assert first
    status, printed, said = collect(out, *arguments, "--target", "200", "--dry-run", "--resume")
    assert status == 0, said
    assert f"{first} of" in said or "cases measured" in said
    status, printed, _ = collect(tmp_path / "b", *arguments, "--target", "0")
    assert status == 2
    assert json.dumps(printed)
