"""Collectives between two processes on CPU tensors, through the whole path up to the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.export import export
from oplib.case import Case
from tests.collector.running import collect, write_plan


@pytest.mark.slow
def test_a_group_measures_as_one(tmp_path: Path) -> None:
    """Each collective over a small message, checked on process 0; one table holds all four."""
    cases = [
        Case(op=op, params={"num_gpus": 2, "dtype": "float32"}, dims={"bytes": 4096})
        for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    ]
    plan = write_plan(tmp_path / "plan.jsonl", cases)
    out = tmp_path / "log"
    arguments = ("--cases", str(plan), "--device", "cpu,cpu", "--timeout", "60")
    status, printed, said = collect(out, *arguments)
    assert (status, printed["ok"]) == (0, 4), said
    (written,) = export([out], tmp_path / "data")
    assert (written.path.parent.name, written.path.name, written.rows) == (
        "nccl",
        "nccl_perf.txt",
        4,
    )
