"""Turns on a shared device: one process has it, and lets go of it while torch compiles."""

from __future__ import annotations

import json
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from collector import cli
from collector.log import OOM, Segment, latest, read_log
from collector.runner import Limits, Outcome, Runner
from collector.turn import FileTurn, compiling_without
from collector.worker import Answer, Options, Task, now
from tests.collector.running import collect, gemm, write_plan

SECONDS = 0.5  # that a case may take
WAIT = 0.1  # seconds in which a turn that is free would be had


class Other:
    """Takes the turn in a thread of its own, and lets go of it when told."""

    def __init__(self, path: Path) -> None:
        self.had, self.enough = threading.Event(), threading.Event()
        self._turn = FileTurn(path, 2)
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        with self._turn:
            self.had.set()
            self.enough.wait(10)

    def end(self) -> None:
        self.enough.set()
        self._thread.join(10)


def test_one_has_it_and_may_take_it_again(tmp_path: Path) -> None:
    mine = FileTurn(tmp_path / "turn", 2)
    with mine:
        with mine:
            pass
        other = Other(tmp_path / "turn")
        assert not other.had.wait(WAIT)
    assert other.had.wait(5)
    other.end()


def test_it_is_let_go_of_at_any_depth_and_had_again(tmp_path: Path) -> None:
    mine = FileTurn(tmp_path / "turn", 2)
    with mine, mine:
        with mine.let_go():
            first = Other(tmp_path / "turn")
            assert first.had.wait(5)
            first.end()
        second = Other(tmp_path / "turn")
        assert not second.had.wait(WAIT)
    assert second.had.wait(5)
    second.end()


def test_who_waits_comes_before_who_had_it(tmp_path: Path) -> None:
    mine = FileTurn(tmp_path / "turn", 2)
    with mine:
        other = Other(tmp_path / "turn")
        assert not other.had.wait(WAIT)
    other.enough.set()
    with mine:
        assert other.had.is_set()
    other.end()


def test_a_fault_of_the_device_leaves_the_turn_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told elsewhere: the turn is free after it, and taken anew as ever."""

    def fault() -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fault)
    mine = FileTurn(tmp_path / "turn", 2)
    with mine, mine, mine.let_go():
        first = Other(tmp_path / "turn")
        assert first.had.wait(5)
        first.end()
    with mine:
        second = Other(tmp_path / "turn")
        assert not second.had.wait(WAIT)
    assert second.had.wait(5)
    second.end()


def test_who_waits_says_so(tmp_path: Path) -> None:
    """Before the wait and after, once for each time that it is taken."""
    heard: list[bool] = []
    mine = FileTurn(tmp_path / "turn", 2, heard.append)
    with mine, mine:
        assert heard == [True, False]
        with mine.let_go():
            pass
    assert heard == [True, False] * 2


@pytest.mark.filterwarnings("ignore")  # torch's compiler has its own
def test_torch_compiles_without_it(tmp_path: Path) -> None:
    """It is free inside of a compilation, and held before and after; so it is to the end, and not beyond."""
    mine = FileTurn(tmp_path / "turn", 2)
    seen: list[bool] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        other = Other(tmp_path / "turn")
        seen.append(other.had.wait(5 if not seen else WAIT))
        if seen[-1]:
            other.end()
        else:
            other.enough.set()
        return graph

    with mine:
        with compiling_without(mine):
            torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(3))
        after = Other(tmp_path / "turn")
        assert not after.had.wait(WAIT)
    after.end()
    with mine:
        torch.compile(lambda x: x + 2, backend=backend)(torch.zeros(3))
    assert seen == [True, False]


@pytest.mark.slow
def test_what_is_compiled_is_measured_by_processes_side_by_side(tmp_path: Path) -> None:
    """Each case has one row, of two processes; what finds no memory beside another is tried alone."""
    plan = write_plan(tmp_path / "plan.jsonl", [gemm(m) for m in range(1, 25)])
    given = ("--cases", str(plan), "--beside", "2")
    status, told, _ = collect(tmp_path / "log", *given, "--variant", "gemm=compiles")
    assert (status, told["rows"], told["ok"], told["left"]) == (0, 24, 24, 0)
    rows = read_log(tmp_path / "log")[0]
    times = [row for row in rows if row["what"] == "time"]
    assert len({row["provenance"] for row in times}) == 2
    assert len(latest(rows)) == len(times)
    status, told, _ = collect(tmp_path / "full", *given, "--variant", "gemm=full")
    assert (status, told["rows"], told["ok"]) == (1, 24, 0)
    tried = [row["sharers"] for row in read_log(tmp_path / "full")[0] if row["what"] == "time"]
    assert sorted(tried) == [1] * 24 + [2] * 24


@pytest.mark.slow
def test_a_wait_for_the_turn_is_not_the_time_of_a_case(tmp_path: Path) -> None:
    """It may last longer than a case may, and so may what is built after it; another case may not."""
    segment = Segment(tmp_path)
    tasks = [Task(case=gemm(m), variant="eager") for m in (1, 2)]
    runner = Runner(segment, [Options()], Limits(case_seconds=SECONDS), serving=waits_for_long)
    rows = {row["dims"]["m"]: row["status"] for row in runner.run(tasks).rows}
    assert rows == {1: "ok", 2: "timeout"}


def waits_for_long(connection: Connection, _: Options) -> None:
    """Has its turn late and builds as long; takes as long for its second case, which builds nothing."""
    connection.send(Answer(phase="hello", row={"what": "provenance", "date": now()}))
    window = connection.recv()
    for place, task in enumerate(window):
        build_seconds = 0.0 if place else 9 * SECONDS
        connection.send(Answer(phase="preparing", place=place, build_seconds=build_seconds))
        if place == 0:
            connection.send(Answer(phase="waiting"))
            time.sleep(3 * SECONDS)
            connection.send(Answer(phase="had"))
        time.sleep(3 * SECONDS)
        row = {"what": "time", "variant": "eager", "op": "gemm", "case_id": task.case.case_id}
        connection.send(Answer(place=place, row={**row, "dims": task.case.dims, "status": "ok"}))
    connection.recv()


@pytest.mark.slow
def test_what_was_not_reached_is_told_and_done_later(tmp_path: Path) -> None:
    """Cases without a row after a budget are counted, those that are not compiled among them; OOM beside others is no
    result."""
    plan = write_plan(tmp_path / "plan.jsonl", [gemm(m) for m in range(1, 25)])
    given = ("--cases", str(plan), "--beside", "2", "--variant", "gemm=compiles", "--examples")
    _, told, _ = collect(tmp_path / "log", *given, "--budget", "0.01")
    _, whole, _ = collect(tmp_path / "log", *given, "--dry-run", "--resume")
    assert told["left"] == whole["cases"] > 24
    assert whole["done"] == told["rows"]
    segment = Segment(tmp_path / "oom")
    for m, sharers in ((1, 2), (2, 1)):
        segment.append({
            "what": "time", "variant": "compiles", "asked": "compiles", "case_id": gemm(m).case_id, "op": "gemm",
            "params": {}, "dims": {"m": m}, "status": OOM, "sharers": sharers,
        })  # fmt: skip
    segment.close()
    _, told, _ = collect(tmp_path / "oom", *given[:-1], "--dry-run", "--resume")
    assert (told["cases"], told["done"]) == (23, 1)


@pytest.mark.slow
def test_the_device_measures_others_while_cases_compile(tmp_path: Path) -> None:
    """As many processes as there are cases to compile, at most, and all that fits goes over them."""
    plan = write_plan(tmp_path / "plan.jsonl", [gemm(m) for m in range(1, 25)])
    cases = ("--cases", str(plan), "--beside", "3", "--variant", "gemm=compiles", "--examples")
    status, told, _ = collect(tmp_path / "log", *cases, "--limit", "30")
    assert (status, told["left"]) == (0, 0)
    times = [row for row in read_log(tmp_path / "log")[0] if row["what"] == "time"]
    others = [row for row in times if row["op"] != "gemm"]
    assert others
    assert len({row["provenance"] for row in others}) > 1


@pytest.mark.parametrize(("slower", "left"), [(1.0, [18, 6]), (9.0, [18])])
def test_a_budget_is_dealt_by_numbers_of_cases(
    slower: float, left: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    """What fits beside others comes first and leaves the rest its part, unless it took that as well."""
    begun: list[int] = []

    class Spent:
        """A runner that spends its budget, or `slower` times that, and makes no row."""

        def __init__(self, _segment, _workers, limits: Limits, _progress) -> None:
            self.seconds = limits.budget_seconds

        def run(self, tasks, _more=None) -> Outcome:
            begun.append(len(tasks))
            part = 90 if len(tasks) == 18 else 30
            assert self.seconds == pytest.approx(part)
            return Outcome(left=len(tasks), seconds=self.seconds * slower)

    monkeypatch.setattr("collector.runner.Runner", Spent)
    monkeypatch.setattr(cli, "_fits", lambda _options, task, _beside: task.case.dims["m"] > 6)
    monkeypatch.setattr(cli, "_compiles", lambda task, _device: task.case.dims["m"] > 12)
    plan = write_plan(tmp_path / "plan.jsonl", [gemm(m) for m in range(1, 25)])
    given = ["--device", "cpu", "--cases", str(plan), "--beside", "2", "--budget", "120", "--json"]
    assert cli.main([*given, "--out", str(tmp_path / "log")]) == 0
    assert begun == left
    assert json.loads(capsys.readouterr().out)["left"] == 24
