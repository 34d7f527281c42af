"""A run that is killed at any moment and resumed has each row once, and a worker that fails costs one case.

The workers here have the real runner and the real log, and a kernel that takes half a millisecond.
`python tests/collector/kill.py 100` is the long form of the kill test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # the workers' processes import it by this name

import kill

from collector.log import Segment, read_log
from collector.runner import Limits, Runner, causes, failed_groups
from collector.worker import Options


@pytest.mark.slow
def test_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Three kills at random moments."""
    found = kill.check(tmp_path, kills=3, seed=7, cases=1500)
    assert found["kills"] > 0
    assert (found["lost"], found["repeated"], found["damaged"]) == (0, 0, 0)


def run(folder: Path, sizes: list[int], limits: Limits) -> tuple[Runner, list[dict], int]:
    segment = Segment(folder)
    runner = Runner(segment, [Options(), Options()], limits, serving=kill.serve)
    outcome = runner.run(kill.tasks(sizes))
    return runner, outcome.rows, outcome.left


@pytest.mark.slow
def test_a_worker_that_fails_costs_one_case(tmp_path: Path) -> None:
    """One case ends the process, one hangs, one asks for a fresh process: all others are measured, each once."""
    sizes = [*range(1, 40), kill.DIES, kill.HANGS, kill.RESTARTS, kill.DIES_LATE, *range(40, 80)]
    _, rows, left = run(tmp_path, sizes, Limits(case_seconds=1.0))
    by_size = {row["dims"]["m"]: row for row in rows}
    assert (left, len(rows), len(by_size)) == (0, len(sizes), len(sizes))
    for size in (kill.DIES, kill.DIES_LATE):
        assert by_size[size]["status"] == "error"
        assert "ended" in by_size[size]["reason"]
    assert by_size[kill.HANGS]["status"] == "timeout"
    assert sum(row["status"] == "ok" for row in rows) == len(sizes) - 3
    logged = [row for row in read_log(tmp_path)[0] if "case_id" in row]
    assert len(logged) == len(sizes)
    assert not failed_groups(rows)
    assert causes(rows)["gemm=quick"]["timeout: over # s"] == 1


@pytest.mark.slow
def test_the_budget_ends_a_run(tmp_path: Path) -> None:
    """Cases that were not reached leave no row and are counted."""
    _, rows, left = run(tmp_path, list(range(1, 10_001)), Limits(budget_seconds=6.0))
    assert rows
    assert len(rows) + left == 10_000


def test_a_group_that_failed_whole_is_told(tmp_path: Path) -> None:
    _, rows, _ = run(tmp_path, [kill.DIES], Limits(case_seconds=1.0))
    assert failed_groups(rows) == ["gemm=quick"]


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_run(tmp_path: Path) -> None:
    """Three tries, then an error that says so."""
    from oplib.errors import TraceModelError

    with pytest.raises(TraceModelError, match="No worker starts"):
        Runner(Segment(tmp_path), [Options()], Limits(), serving=kill.never).run(kill.tasks([1]))
