"""What measured tables hold of a model's ops, in the terminal, and the words that the page shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from oplib.console import columns, cut, heading, line, plain_table
from oplib.wording import duration, short_params
from tracer.report.view import phase_workload

Report = Mapping[str, Any]  # the object that `trace-model --json` prints
_MOST = 12  # groups of missing points that are printed

WIDTHS = {"coverage": 12, "points": -7, "bound": -7, "price": -7, "+-": -5, "origin": 12}


def where(coverage: Mapping[str, Any]) -> str:
    """The tables that were asked."""
    return f"{coverage['system']} {coverage['backend']} {coverage['version']}"


def groups(coverage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Missing points that differ in their sizes alone, the dearest group first."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for point in coverage["missing"]:
        key = (point["op"], *point["params"].values(), point["reason"])
        group = found.setdefault(
            key,
            {
                "op": point["op"],
                "parameters": short_params(point["params"]),
                "reason": point["reason"],
                "nearest": point["nearest"],
                "points": 0,
                "bound_ms": 0.0,
                "needed_by": {},
                "sizes": {},
            },
        )
        group["points"] += 1
        group["bound_ms"] += point["bound_ms"]
        group["needed_by"] |= dict.fromkeys(point["needed_by"])
        for name, size in point["dims"].items():
            low, high = group["sizes"].get(name, (size, size))
            group["sizes"][name] = (min(low, size), max(high, size))
    for group in found.values():
        group["needed_by"] = list(group["needed_by"])
        group["sizes"] = ", ".join(_span(n, *ends) for n, ends in group["sizes"].items())
    return sorted(found.values(), key=lambda group: -group["bound_ms"])


def rows(report: Report, phase: str) -> list[dict[str, Any]]:
    """The ops of a phase, those of layers that agree in all that is shown as one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    mine = [row for row in report["coverage"]["ops"] if row["phase"] == phase]
    for row, op in zip(mine, report["op_list"]["phases"][phase], strict=True):
        key = (row["op"], row["name"], row["coverage"], row["bound_ms"], row["ms"])
        if key in found:
            found[key]["count"] += row["count"]
        else:
            found[key] = {**row, "parameters": short_params(op["params"])}
    return list(found.values())


def summary(report: Report, phase: str) -> str:
    """One line on a phase: its price, its bound, and how much of it was measured."""
    total = report["coverage"]["phases"][phase]
    at = " ".join(f"{axis}={size}" for axis, size in phase_workload(report, phase).items())
    return (
        f"{phase.capitalize()} at {at}: {duration(total['ms'])} +- {total['uncertainty']:.0%}, at least "
        f"{duration(total['bound_ms'])}; {total['measured_share']:.0%} of it is measured"
    )


def unmeasured(report: Report) -> list[str]:
    """A line for each kind that the tables never measure, with its share of each phase."""
    found = []
    for kind in report["coverage"]["unmeasured_kinds"]:
        shares = ", ".join(f"{share:.1%} of {phase}" for phase, share in kind["time_share"].items())
        found.append(f"{kind['op']}: no table, {kind['ops']} ops, {shares} by stated efficiency")
    return found


def render_coverage(report: Report, console: Console) -> None:
    """Print what was asked of the tables, op by op, and what is missing; nothing where none was asked."""
    coverage = report.get("coverage") or {}
    if not coverage.get("checked"):
        return
    points = [sum(row["points"].values()) for row in coverage["ops"]]
    missing = len(coverage["missing"])
    heading(console, f"Coverage: {where(coverage)}")
    line(console, f"{sum(points)} points asked, {missing or 'none'} to measure", indent=2)
    for phase in coverage["phases"]:
        line(console, summary(report, phase))
        _ops(rows(report, phase), console)
    for text in (*unmeasured(report), *(f"note: {note}" for note in coverage["notes"])):
        line(console, text, indent=2)
    _missing(groups(coverage), console)


def _ops(found: list[dict[str, Any]], console: Console) -> None:
    table = plain_table()
    rest = max(80, console.width) - sum(abs(width) + 1 for width in WIDTHS.values()) - 1
    name = min(rest, max(12, *(len(row["name"]) for row in found)))
    columns(table, name=name, **WIDTHS)
    for row in found:
        covered = row["points"]["exact"] + row["points"]["interpolable"]
        table.add_row(
            cut(row["name"], name, console, head=True),
            "in module" if row["covers"] == "all" else row["coverage"],
            f"{covered}/{sum(row['points'].values())}",
            _short(row["bound_ms"]),
            _short(row["ms"]),
            f"{row['uncertainty']:.0%}",
            row["origin"],
        )
    console.print(table)


def _missing(found: list[dict[str, Any]], console: Console) -> None:
    if not found:
        return
    total = sum(group["points"] for group in found)
    heading(console, f"To measure: {total} points (--cases FILE writes the plan)")
    for group in found[:_MOST]:
        head = (
            f"{group['op']} {group['parameters']}: {_points(group['points'])} at {group['sizes']}"
        )
        line(console, head, indent=2)
        line(console, group["reason"], indent=4, style="dim")
        if group["nearest"]:
            line(console, f"nearest row: {group['nearest']}", indent=4, style="dim")
    if len(found) > _MOST:
        line(console, f"and {len(found) - _MOST} more groups, see --json", indent=2)


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _span(name: str, low: int, high: int) -> str:
    return f"{name} {low}" if low == high else f"{name} {low} to {high}"


def _short(ms: float) -> str:
    """A duration in seven columns."""
    return f"{ms * 1e6:.3g}ns" if ms < 1e-3 else duration(ms).replace(" ", "")
