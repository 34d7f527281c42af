"""A local Ray cluster: the same cases, each with one row, in the same log; where Ray is not installed a run says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from collector import cli
from collector.cluster import Dispenser, _without_rows
from collector.log import Segment, read_log, segments
from collector.worker import Task
from tests.collector.running import collect, gemm, write_plan


def test_without_ray_the_run_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    plan = write_plan(tmp_path / "plan.jsonl", [gemm(1)])
    arguments = [
        "--cases",
        str(plan),
        "--device",
        "cpu",
        "--cluster",
        "local",
        "--out",
        str(tmp_path / "log"),
    ]
    assert cli.main(arguments) == 2
    assert "trace-model[cluster]" in capsys.readouterr().err


def test_tasks_are_given_out_once_and_again_where_a_node_was_lost(tmp_path: Path) -> None:
    """Every task is taken by one runner; those without a row afterwards are what is left."""
    tasks = [Task(case=gemm(m), variant="eager") for m in range(1, 200)]
    dispenser = Dispenser(tasks)
    taken = []
    while some := dispenser.take():
        taken += some
    assert taken == tasks
    assert dispenser.left() == 0
    segment = Segment(tmp_path)
    for task in tasks[:50]:
        segment.append(
            {"what": "time", "variant": "eager", "asked": "eager", "case_id": task.case.case_id, "status": "ok",
             "date": "1"}
        )  # fmt: skip
    segment.close()
    assert _without_rows(tasks, tmp_path) == tasks[50:]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_local_cluster_measures_each_case_once(tmp_path: Path) -> None:
    """A runner for each processor but one; every case has one row, and resuming repeats nothing."""
    cases = [gemm(m) for m in range(1, 90)]
    plan = write_plan(tmp_path / "plan.jsonl", cases)
    out = tmp_path / "log"
    arguments = ("--cases", str(plan), "--cluster", "local", "--variant", "gemm=eager")
    status, printed, said = collect(out, *arguments)
    assert status == 0, said
    assert (printed["rows"], printed["ok"], printed["left"]) == (89, 89, 0)
    rows = [row for row in read_log(out)[0] if "case_id" in row]
    assert len({row["case_id"] for row in rows}) == len(rows) == 89
    assert len(segments(out)) >= 2
    status, printed, _ = collect(out, *arguments, "--resume")
    assert (status, printed["rows"]) == (0, 0)
