"""The rows of align-model on a terminal: a line each under the name of its part, and the ops of a few."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from oplib.console import columns, cut, heading, line, plain_table
from oplib.wording import duration

Json = dict[str, Any]  # Any: an object that becomes JSON
LIMIT = 0.10
_NAME = 16  # characters of a name: the columns fill 80 together
_FEW = 3  # rows up to which their ops are printed too


def render(rows: Sequence[Json], console: Console, *, dry: bool = False) -> None:
    """The table, what it comes to, and what failed."""
    for name in dict.fromkeys((row["model"], row["submodule"]) for row in rows):
        heading(console, " ".join(name))
        console.print(
            _workloads([row for row in rows if (row["model"], row["submodule"]) == name], dry=dry)
        )
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
        return f"{len(rows)} rows, none measured"
    below = sum(gap < LIMIT for gap in gaps)
    return (
        f"{len(gaps)} of {len(rows)} measured, median gap {statistics.median(gaps):.1%}, "
        f"{below / len(gaps):.0%} below {LIMIT:.0%}"
    )


def _workloads(rows: Sequence[Json], *, dry: bool) -> Table:
    table = plain_table()
    columns(
        table, phase=10, workload=12, predicted=-9, alone=-8, measured=-8, gap=-8, graph=5, kernels=7
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["phase"], row["workload"],
            milliseconds(row["predicted_ms"]), milliseconds(row["standalone_ms"]),
            milliseconds(row["measured_ms"]), share(row["gap"]),
            "" if dry or row["measured_ms"] is None else "yes" if row["graph"] else "no",
            {True: "same", False: "differ", None: ""}[row["kernels_match"]],
        )  # fmt: skip
    return table


def _ops(row: Json, console: Console) -> None:
    heading(console, f"{row['submodule']} {row['phase']} {row['workload']}")
    table = plain_table()
    columns(table, name=_NAME, op=12, variant=9, priced=-8, origin=7, alone=-7, measured=-8, gap=-6)
    for op in row["ops"]:
        table.add_row(
            cut(op["name"], _NAME, console, head=True), cut(op["op"], 12, console), cut(op["variant"], 9, console),
            milliseconds(op["predicted_ms"]), op["origin"][:7], milliseconds(op["standalone_ms"]),
            milliseconds(op["measured_ms"]),
            share(op["gap"]),
        )  # fmt: skip
    console.print(table)


def milliseconds(value: float | None) -> str:
    """A time in words, nothing where there is none."""
    return "" if value is None else duration(value)


def share(value: float | None) -> str:
    """A gap in percent with its sign, nothing where there is none."""
    return "" if value is None else f"{value:+.1%}"
