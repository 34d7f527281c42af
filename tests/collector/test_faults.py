"""Variants that raise, hang, end the process or are wrong: the run goes on, says so, and other rows are intact."""

from __future__ import annotations

import json
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from collector.log import Segment, latest, read_log
from collector.runner import Limits, Runner
from collector.worker import Answer, Options, Task, now
from tests.collector.running import PLUGIN, collect, gemm, registry_kept, write_plan

CASES = [gemm(m) for m in (1, 2, 3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict, Path]:
    """Every variant of the plug-in and the reference, over three cases, in one run."""
    folder = tmp_path_factory.mktemp("faults")
    plan = write_plan(folder / "plan.jsonl", CASES)
    out = folder / "log"
    names = ("eager", "raises", "hangs", "dies", "wrong", "unwritten", "greedy", "absent", "builds")
    status = {}
    for name in names:
        more = ["--resume"] if out.exists() else []
        status[name], _, _ = collect(
            out, "--cases", str(plan), "--variant", f"gemm={name}", "--timeout", "2", *more
        )
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    return 0, status, out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "status", "words", "exit_status"),
    [
        ("eager", "ok", "", 0),
        ("raises", "error", "no kernel for m", 1),
        ("builds", "ok", "", 0),
        ("hangs", "timeout", "over 2 s", 1),
        ("dies", "error", "the worker process ended", 1),
        ("wrong", "wrong_result", "wrong on", 1),
        ("unwritten", "wrong_result", "wrong on", 1),
        ("greedy", "oom", "1000 GiB", 1),
        ("absent", "skipped", "no variant 'absent'", 0),
    ],
)
def test_every_failure_is_a_row(
    run: tuple[int, dict, Path], variant: str, status: str, words: str, exit_status: int
) -> None:
    """Three rows with the status and its cause, and exit status 1 where a group failed whole."""
    _, statuses, out = run
    rows = [r for r in latest(read_log(out)[0]).values() if r["asked"] == variant]
    assert [row["status"] for row in rows] == [status] * len(CASES)
    assert all(words in row.get("reason", "") for row in rows)
    assert statuses[variant] == exit_status


@pytest.mark.slow
def test_resume_repeats_nothing_and_retries_on_request(run: tuple[int, dict, Path]) -> None:
    """A second run has nothing to do; with --retry-failed it repeats what is not ok."""
    _, _, out = run
    plan = str(out.parent / "plan.jsonl")
    _, printed, _ = collect(
        out, "--cases", plan, "--variant", "gemm=greedy", "--resume", "--dry-run"
    )
    assert printed["cases"] == 0
    _, printed, _ = collect(
        out, "--cases", plan, "--variant", "gemm=greedy", "--resume", "--retry-failed", "--dry-run"
    )
    assert printed["cases"] == len(CASES)
    status, _, said = collect(out, "--cases", plan)
    assert status == 2
    assert "--resume" in said


def test_what_fails_beside_others_is_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that lacks while others are held, and samples that break off: no row, but a second try by itself; alone
    the same is a row."""
    from collector import timing
    from collector.worker import Worker

    with registry_kept():
        worker = Worker(Options(device="cpu", seconds=0.01, check=False, plugins=(PLUGIN,)))
        window = [Task(case=gemm(4), variant="eager"), Task(case=gemm(5), variant="greedy")]
        said = [(one.phase, one.place) for one in worker.answers(window)]
        assert said == [
            ("preparing", 0), ("preparing", 1), ("alone", 1), ("sampling", 0), ("row", 0)
        ]  # fmt: skip
        assert worker.answer(window[1]).row["status"] == "oom"

        def broken(cases, bench):
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(timing, "sample_window", broken)
        both = [window[0], Task(case=gemm(6), variant="eager")]
        answers = list(worker.answers(both))
        assert [one.place for one in answers if one.phase == "alone"] == [0, 1]
        assert answers[-1].restart
        assert worker.answer(window[0]).row["status"] == "error"


def test_samples_that_disagree_get_one_more_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside others: alone, once, as the runner gives it out. By itself: a row that is no measurement. On a host, whose
    samples are what they are, rows as ever."""
    from collector import timing
    from collector.worker import Worker

    worker = Worker(Options(device="cpu", seconds=0.01, check=False))
    monkeypatch.setattr(timing, "NOISY", -1.0)
    window = [Task(case=gemm(m), variant="eager") for m in (4, 5)]
    assert {one.row["status"] for one in worker.answers(window) if one.phase == "row"} == {"ok"}
    monkeypatch.setattr(
        timing, "disagreement", lambda spread, samples, bench: f"samples disagree: spread {spread}"
    )
    answers = list(worker.answers(window))
    assert sorted(one.place for one in answers if one.phase == "alone") == [0, 1]
    assert not [one for one in answers if one.phase == "row" or one.restart]
    again = [replace(task, share=1.0) for task in window]
    for tasks in ([again[0]], again, [window[0]]):  # alone, beside one of no size, and the last one
        rows = [one.row for one in worker.answers(tasks) if one.phase == "row"]
        assert [row["status"] for row in rows] == ["error"] * len(tasks)
        assert all("samples disagree" in row["reason"] for row in rows)
        assert not any("timing" in row for row in rows)
    power = worker.answer(Task(case=gemm(4), variant="eager", what="power", share=1.0)).row
    assert (power["status"], "samples disagree" in power["reason"]) == ("error", True)


@pytest.mark.slow
def test_the_runner_ends_where_samples_never_agree(tmp_path: Path) -> None:
    """A worker that calls whatever is not alone noisy: each case goes out twice, and has one row."""
    segment = Segment(tmp_path)
    tasks = [Task(case=gemm(m), variant="eager", share=0.1) for m in range(1, 6)]
    runner = Runner(segment, [Options(device="cpu")], Limits(), serving=never_agrees)
    rows = runner.run(tasks).rows
    assert sorted(row["dims"]["m"] for row in rows) == [1, 2, 3, 4, 5]
    assert {(row["status"], row["beside"]) for row in rows} == {("error", 1)}


def never_agrees(connection: Connection, options: Options) -> None:
    """What `serve` says of samples that always disagree."""
    connection.send(Answer(phase="hello", row={"what": "provenance", "date": now()}))
    while True:
        try:
            window = connection.recv()
        except EOFError:
            return
        connection.send(Answer(phase="sampling"))
        for place, task in enumerate(window):
            row = {
                "what": task.what, "variant": task.variant, "case_id": task.case.case_id, "op": task.case.op,
                "params": dict(task.case.params), "dims": dict(task.case.dims), "status": "error",
                "reason": "samples disagree", "beside": len(window),
            }  # fmt: skip
            phase = "row" if task.share == 1.0 else "alone"
            connection.send(Answer(phase=phase, place=place, row=row))
