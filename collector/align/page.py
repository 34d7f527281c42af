"""The page of align-model: one HTML file that loads nothing. No script runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from collector.align.terminal import LIMIT, milliseconds, share, summary
from models.report.svg import Axes, Scale, element, figure

Json = dict[str, Any]  # Any: an object that becomes JSON
_STYLE = "details summary { cursor: pointer; color: var(--accent); } .same { color: var(--green); }"


def render_page(rows: Sequence[Json]) -> str:
    """The page of these rows."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    title = models[0] if len(models) == 1 else f"{len(models)} models"
    measured = [row for row in rows if row["gap"] is not None]
    sections = [f'<section><div class="cards">{_cards(rows)}</div></section>']
    if measured:
        sections.append(
            f'<div class="pair">{_section("Price beside measured time", scatter(measured))}'
            f"{_section('Gaps', histogram(measured))}</div>"
        )
    sections += [
        _section(model, _table([r for r in rows if r["model"] == model])) for model in models
    ]
    parts = {
        "title": escape(f"{title}: alignment"),
        "model": escape(title),
        "machine": "sub-modules compiled and captured, beside the sum of their ops",
        "workload": escape(summary(rows)),
        "style": _file("price.css") + _STYLE,
        "sections": "\n".join(sections),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], _file("price.html"))


def scatter(rows: Sequence[Json]) -> str:
    """Measured time against predicted, both logarithmic; the line is equality, the thin ones the limit."""
    points = [(row["measured_ms"], row["predicted_ms"]) for row in rows]
    axes = Axes.over(points, ("measured, ms", "predicted, ms"), log=(True, True))
    lines = [
        axes.ratio(factor, "roof" if factor == 1 else "grid")
        for factor in (1, 1 + LIMIT, 1 - LIMIT)
    ]
    dots = [
        axes.dot(
            row["measured_ms"], row["predicted_ms"], row["phase"],
            f"{row['model']} {row['submodule']} {row['workload']}: {row['gap']:+.1%}",
        )
        for row in rows
    ]  # fmt: skip
    return figure(axes.draw() + "".join(lines + dots), label="predicted against measured time")


def histogram(rows: Sequence[Json]) -> str:
    """How many rows have which gap, in steps of 2.5 %; those beyond 30 % are at the edges."""
    step, edge = 0.025, 0.3
    counts: dict[int, int] = {}
    for row in rows:
        place = round(max(min(row["gap"], edge), -edge) / step)
        counts[place] = counts.get(place, 0) + 1
    points = [(place * step * 100, float(count)) for place, count in counts.items()]
    axes = Axes.over(points, ("gap, %", "rows"), whole=(False, True))
    axes = Axes(
        x=Scale(low=-32, high=32, start=axes.x.start, end=axes.x.end),
        y=axes.y, x_name=axes.x_name, y_name=axes.y_name,
    )  # fmt: skip
    bars = []
    for x, count in sorted(points):
        left, right, top = axes.x(x - 1.1), axes.x(x + 1.1), axes.y(count)
        inside = "generation" if abs(x) > 100 * LIMIT else "context"
        bars.append(
            element(
                "rect",
                x=left,
                y=top,
                width=right - left,
                height=axes.y(0) - top,
                class_=f"part {inside}",
            )
        )
    return figure(axes.draw() + "".join(bars), label="how many rows have which gap")


def _cards(rows: Sequence[Json]) -> str:
    gaps = [abs(row["gap"]) for row in rows if row["gap"] is not None]
    alone = [abs(row["standalone_gap"]) for row in rows if row["standalone_gap"] is not None]
    captured = [row for row in rows if row["measured_ms"] is not None]
    cards = [("rows measured", f"{len(captured)} of {len(rows)}")]
    for word, values in (("of prices", gaps), ("of kernels alone", alone)):
        if values:
            below = sum(value < LIMIT for value in values) / len(values)
            told = (
                f"{statistics.median(values):.1%}",
                f"median gap {word}, {below:.0%} below {LIMIT:.0%}",
            )
            cards.append((told[1], told[0]))
    if captured:
        graphs = sum(bool(row["graph"]) for row in captured)
        cards.append(("captured in a CUDA graph", f"{graphs} of {len(captured)}"))
    return "".join(
        f'<div class="card"><span>{escape(word)}</span><b>{escape(value)}</b></div>'
        for word, value in cards
    )


def _table(rows: Sequence[Json]) -> str:
    heads = (
        "sub-module", "phase", "workload", "predicted", "under load", "gap", "at rest", "ops alone, at rest", "graph",
        "kernels", "ops",
    )  # fmt: skip
    body = "".join(_row(row) for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _row(row: Json) -> str:
    bad = row["gap"] is not None and abs(row["gap"]) >= LIMIT
    kernels = {True: '<span class="same">same</span>', False: "differ", None: ""}[
        row["kernels_match"]
    ]
    cells = [
        escape(row["submodule"]), row["phase"], escape(row["workload"]), milliseconds(row["predicted_ms"]),
        milliseconds(row["measured_ms"]),
    ]  # fmt: skip
    rested = "".join(
        f"<td>{milliseconds(row[name])}</td>" for name in ("rested_ms", "standalone_ms")
    )
    plain = "".join(f"<td>{cell}</td>" for cell in cells)
    graph = "yes" if row["graph"] else escape(row["failed"] or row["note"] or "no")
    style = ' class="bad"' if bad else ""
    gap = f"<td{style}>{share(row['gap'])}</td>"
    return f"<tr>{plain}{gap}{rested}<td>{graph}</td><td>{kernels}</td><td>{_ops(row)}</td></tr>"


def _ops(row: Json) -> str:
    if not row["ops"]:
        return ""
    heads = (
        "op",
        "name",
        "kernel",
        "predicted",
        "origin",
        "alone, at rest",
        "inside, at rest",
        "gap",
    )
    lines = [_cells(heads, "th")]
    for op in row["ops"]:
        cells = (
            op["op"], op["name"], op["variant"], milliseconds(op["predicted_ms"]), op["origin"],
            milliseconds(op["standalone_ms"]), milliseconds(op["measured_ms"]), share(op["gap"]),
        )  # fmt: skip
        lines.append(_cells(cells, "td"))
    differ = row["kernels_differ"] or {"missing": [], "added": []}
    names = [f"alone only: {n}" for n in differ["missing"]] + [
        f"inside only: {n}" for n in differ["added"]
    ]
    listed = "".join(f"<li>{escape(name[:160])}</li>" for name in names)
    return f"<details><summary>{len(row['ops'])}</summary><table>{''.join(lines)}</table><ul>{listed}</ul></details>"


def _cells(values: Iterable[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(value)}</{kind}>" for value in values) + "</tr>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _file(name: str) -> str:
    return files("models.report").joinpath("page", name).read_text(encoding="utf-8")
