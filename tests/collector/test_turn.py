"""Turns on a shared device: one process has it, and lets go of it while torch compiles."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from collector.log import latest, read_log
from collector.turn import FileTurn, compile_without
from tests.collector.running import collect, gemm, write_plan

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


@pytest.mark.filterwarnings("ignore")  # torch's compiler has its own
def test_torch_compiles_without_it(tmp_path: Path) -> None:
    """It is free inside of a compilation, and held before and after."""
    mine = FileTurn(tmp_path / "turn", 2)
    compile_without(mine)
    seen = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        other = Other(tmp_path / "turn")
        seen.append(other.had.wait(5))
        other.end()
        return graph

    with mine:
        torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(3))
        after = Other(tmp_path / "turn")
        assert not after.had.wait(WAIT)
    after.end()
    assert seen == [True]


@pytest.mark.slow
def test_what_is_compiled_is_measured_by_processes_side_by_side(tmp_path: Path) -> None:
    """Each case has one row, of two processes; what finds no memory beside another is tried alone."""
    plan = write_plan(tmp_path / "plan.jsonl", [gemm(m) for m in range(1, 25)])
    given = ("--cases", str(plan), "--beside", "2")
    status, told, _ = collect(tmp_path / "log", *given, "--variant", "gemm=compiles")
    assert (status, told["rows"], told["ok"]) == (0, 24, 24)
    rows = read_log(tmp_path / "log")[0]
    times = [row for row in rows if row["what"] == "time"]
    assert len({row["provenance"] for row in times}) == 2
    assert len(latest(rows)) == len(times)
    status, told, _ = collect(tmp_path / "full", *given, "--variant", "gemm=full")
    assert (status, told["rows"]) == (1, 48)
