"""The rows of align-model on a terminal: a line each, and below them the ops of a lone one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from oplib.console import columns, cut, heading, line, plain_table
from oplib.wording import duration

Json = dict[str, Any]  # Any: an object that becomes JSON
LIMIT = 0.10
_FEW = 3  # rows up to which their ops are printed too


def render(rows: Sequence[Json], console: Console, *, dry: bool = False) -> None:
    """The table, what it comes to, and what failed."""
    table = plain_table()
    columns(
        table, submodule=34, phase=10, workload=12, predicted=-10, alone=-10, measured=-10, gap=-7, graph=6, kernels=8
    )  # fmt: skip
    for row in rows:
        table.add_row(
            cut(f"{row['model']} {row['submodule']}", 34, console, head=True), row["phase"], row["workload"],
            _ms(row["predicted_ms"]), _ms(row["standalone_ms"]), _ms(row["measured_ms"]), _share(row["gap"]),
            "" if dry or row["measured_ms"] is None else "yes" if row["graph"] else "no",
            {True: "same", False: "differ", None: ""}[row["kernels_match"]],
        )  # fmt: skip
    console.print(table)
    if not dry and len(rows) <= _FEW:
        for row in rows:
            _ops(row, console)
    for row in rows:
        for word in ("failed", "note"):
            if row[word]:
                line(
                    console,
                    f"{row['submodule']} {row['phase']} {row['workload']}: {row[word]}",
                    style="yellow",
                )
    line(console, summary(rows), style="bold")


def summary(rows: Sequence[Json]) -> str:
    """How many rows there are, the median gap, and how many are below the limit."""
    gaps = [abs(row["gap"]) for row in rows if row["gap"] is not None]
    if not gaps:
        return f"{len(rows)} sub-modules, none measured"
    below = sum(gap < LIMIT for gap in gaps)
    return (
        f"{len(gaps)} of {len(rows)} measured, median gap {statistics.median(gaps):.1%}, "
        f"{below / len(gaps):.0%} below {LIMIT:.0%}"
    )


def _ops(row: Json, console: Console) -> None:
    heading(console, f"{row['submodule']} {row['phase']} {row['workload']}")
    table = plain_table()
    columns(
        table, op=22, name=30, variant=20, predicted=-10, origin=13, alone=-10, measured=-10, gap=-7
    )
    for op in row["ops"]:
        table.add_row(
            op["op"], cut(op["name"], 30, console, head=True), op["variant"], _ms(op["predicted_ms"]),
            cut(op["origin"], 13, console), _ms(op["standalone_ms"]), _ms(op["measured_ms"]), _share(op["gap"]),
        )  # fmt: skip
    console.print(table)


def _ms(value: float | None) -> str:
    return "" if value is None else duration(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"
