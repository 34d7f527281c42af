"""Variants that raise, hang, end the process or are wrong: the run goes on, says so, and other rows are intact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collector.log import latest, read_log
from tests.collector.running import PLUGIN, collect, gemm, write_plan

CASES = [gemm(m) for m in (1, 2, 3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict, Path]:
    """Every variant of the plug-in and the reference, over three cases, in one run."""
    folder = tmp_path_factory.mktemp("faults")
    plan = write_plan(folder / "plan.jsonl", CASES)
    out = folder / "log"
    names = ("eager", "raises", "hangs", "dies", "wrong", "unwritten", "greedy", "absent")
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
    from collector.worker import Options, Task, Worker
    from oplib.kernels.registry import slot

    worker = Worker(Options(device="cpu", seconds=0.01, check=False, plugins=(PLUGIN,)))
    try:
        window = [Task(case=gemm(4), variant="eager"), Task(case=gemm(5), variant="greedy")]
        said = [(one.phase, one.place) for one in worker.answers(window)]
        assert said == [
            ("preparing", 0), ("preparing", 1), ("alone", 1), ("sampling", 0), ("row", 0)
        ]  # fmt: skip
        assert worker.answer(window[1]).row["status"] == "oom"

        def broken(cases, bench, loaded):
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(timing, "sample_window", broken)
        both = [window[0], Task(case=gemm(6), variant="eager")]
        answers = list(worker.answers(both))
        assert [one.place for one in answers if one.phase == "alone"] == [0, 1]
        assert answers[-1].restart
        assert worker.answer(window[0]).row["status"] == "error"
    finally:
        for name in ("quick", "raises", "hangs", "dies", "greedy", "wrong", "unwritten"):
            slot("gemm").variants.pop(name, None)


def test_a_fault_beside_load_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that faults while a case is made ready and others run may have faulted in either: the case is tried
    alone in a fresh process, where a fault is its own."""
    from collector.timing import Load
    from collector.worker import Options, Task, Worker
    from oplib.kernels.registry import slot

    worker = Worker(Options(device="cpu", seconds=0.01, check=False, plugins=(PLUGIN,)))
    try:
        monkeypatch.setattr(worker, "_healthy", lambda: False)
        window = [Task(case=gemm(4), variant="eager"), Task(case=gemm(5), variant="raises")]
        assert [one.phase for one in worker.answers(window)] == ["preparing", "preparing", "row"]
        monkeypatch.setattr(Load, "add", lambda self, case: self.cases.append(case))
        *_, last = worker.answers(window)
        assert (last.phase, last.place, last.restart) == ("alone", 1, True)
        assert worker.answer(window[1]).row["status"] == "error"
    finally:
        for name in ("quick", "raises", "hangs", "dies", "greedy", "wrong", "unwritten"):
            slot("gemm").variants.pop(name, None)
