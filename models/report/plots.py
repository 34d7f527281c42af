"""The plots of the price page: shares of time, roofline, batch curve, sweep and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from models.compare import frontier
from models.report.svg import COLOURS, LEFT, TOP, WIDTH, Axes, element, figure, text, titled
from models.report.words import layout_words, percent
from oplib.wording import duration
from perfdb.systems import System

Report = Mapping[str, Any]  # an object that `price-model --json` prints
_SHARE_HEIGHT, _GAP = 34, 22  # of a stacked bar and of the room above it


def shares(report: Report) -> str:
    """One stacked bar per phase: each op's share of the time; small ones together."""
    names = _largest(report)
    parts, legend = [], []
    for row, phase in enumerate(report["phases"]):
        ops = [op for op in report["ops"] if op["phase"] == phase]
        top = row * (_SHARE_HEIGHT + _GAP) + _GAP
        title = f"{phase} {duration(report['phases'][phase]['ms'])}"
        parts.append(text(title, 0, top - 6, "name"))
        start = 0.0
        for name in [*names, ""]:
            mine = [op for op in ops if (op["name"] if op["name"] in names else "") == name]
            share = sum(op["share"] for op in mine)
            said = f"{name or 'all others'}: {percent(share)}, {duration(sum(op['ms'] for op in mine))}"
            colour = f"c{names.index(name)}" if name else "rest"
            parts.append(
                element(
                    "rect", titled(said), x=start * WIDTH * 1.6, y=top, width=share * WIDTH * 1.6,
                    height=_SHARE_HEIGHT, class_=f"part {colour}",
                )
            )  # fmt: skip
            if share > 0.07:
                middle = (start + share / 2) * WIDTH * 1.6
                parts.append(text(percent(share), middle, top + 22, "inside middle"))
            start += share
    height = len(report["phases"]) * (_SHARE_HEIGHT + _GAP) + 6
    for place, name in enumerate([*names, "all others"]):
        colour = f"c{place}" if place < len(names) else "rest"
        legend.append(f'<span class="key"><i class="{colour}"></i>{escape(name)}</span>')
    picture = figure("".join(parts), label="Share of time by op", width=WIDTH * 1.6, height=height)
    return picture + f'<div class="keys">{"".join(legend)}</div>'


def _largest(report: Report) -> list[str]:
    """Names of the ops with the largest share of a phase, in the order of the op list."""
    most: dict[str, float] = {}
    for op in report["ops"]:
        most[op["name"]] = max(most.get(op["name"], 0.0), op["share"])
    kept = sorted(most, key=lambda name: -most[name])[:COLOURS]
    return [name for name in most if name in kept]


def roofline(report: Report, system: System) -> str:
    """Every op with FLOPs: reached FLOP/s over intensity, under the bandwidth and the peaks of the dtypes in use."""
    ops = [op for op in report["ops"] if op["intensity"] and op["ms"] > 0]
    rates: dict[float, list[str]] = {}
    for dtype, peak in system.peak.items():
        rates.setdefault(peak.base, []).append(dtype)
    bandwidth = system.memory_bandwidth.base
    points = [(op["intensity"], _reached(op, system)) for op in ops]
    reach = [max([x for x, _ in points] + [1e3]), min([x for x, _ in points] + [1.0])]
    corners = [*points, (reach[0], max(rates)), (reach[1], reach[1] * bandwidth)]
    axes = Axes.over(corners, ("FLOPs per byte", "FLOP/s"), log=(True, True))
    body = [axes.draw()]
    top = max(rates)
    low, knee = axes.x.low, top / bandwidth
    roof = [(low, low * bandwidth), (min(knee, axes.x.high), min(knee, axes.x.high) * bandwidth)]
    body.append(axes.line(roof, "roof"))
    for rate, dtypes in rates.items():
        body.append(axes.line([(max(rate / bandwidth, low), rate), (axes.x.high, rate)], "roof"))
        body.append(text(", ".join(dtypes), LEFT + 6, axes.y(rate) + 4, "tick"))
    for op, (x, y) in zip(ops, points, strict=True):
        said = f"{op['phase']} {op['name']}: {op['bound']}-bound, {op['achieved']:.0%} of the bound"
        size = 3 + 8 * op["share"] ** 0.5
        body.append(axes.dot(x, y, op["phase"], said, radius=size))
    return figure("".join(body), label="Roofline")


def _reached(op: Mapping[str, Any], system: System) -> float:
    """FLOP/s of an op: intensity times the bytes per second that its bound and its reach imply."""
    if op["bound"] == "memory":
        return float(op["intensity"] * op["achieved"] * system.memory_bandwidth.base)
    seconds = op["bound_ms"] * 1e-3 / op["achieved"]
    return float(op["flops"] / seconds)


def batch_curve(reports: Sequence[Report]) -> str:
    """TTFT and TPOT over the batch, on logarithmic axes; hollow points do not fit in memory."""
    lines = {
        "ttft_ms": ("context", "TTFT"),
        "tpot_ms": ("generation", "TPOT"),
    }
    points = [
        (report["workload"]["batch"], report[key])
        for key in lines
        for report in reports
        if report[key]
    ]
    axes = Axes.over(points, ("batch", "ms"), log=(True, True), whole=(True, False))
    body = [axes.draw()]
    for key, (style, label) in lines.items():
        mine = [r for r in reports if r[key]]
        if not mine:
            continue
        body.append(axes.line([(r["workload"]["batch"], r[key]) for r in mine], style))
        for report in mine:
            batch, ms = report["workload"]["batch"], report[key]
            fits = report["memory"]["fits"] is not False
            said = f"batch {batch}: {label} {duration(ms)}{'' if fits else ', does not fit'}"
            body.append(axes.dot(batch, ms, style + ("" if fits else " hollow"), said, radius=3.5))
        last = max(mine, key=lambda report: report["workload"]["batch"])
        at = (
            axes.y(last[key]) - 8
        )  # lines rise, so what ends above their last point is clear of them
        body.append(text(label, axes.x(last["workload"]["batch"]), at, f"name end {style}"))
    return figure("".join(body), label="TTFT and TPOT over the batch")


def pareto(reports: Sequence[Report]) -> str:
    """tokens/s per GPU over tokens/s per user of each run; a colour per layout, hollow where it does not fit, a line
    through the best of each length of prompt and answer."""
    shown = [r for r in reports if r["tokens_per_s_per_user"]]
    layouts = list(dict.fromkeys(layout_words(report) for report in shown))
    names = ("tokens/s per user", "tokens/s per GPU")
    axes = Axes.over([_rates(report) for report in shown], names)
    body = [axes.draw()]
    best = [reports[place] for place in sorted(frontier(reports))]
    for lengths in dict.fromkeys(map(_lengths, best)):
        mine = sorted(_rates(report) for report in best if _lengths(report) == lengths)
        body.append(axes.line(mine, "best"))
    for report in shown:
        colour = f"c{layouts.index(layout_words(report)) % COLOURS}"
        fits = report["memory"]["fits"] is not False
        x, y = _rates(report)
        sizes = ", ".join(f"{k} {v}" for k, v in report["workload"].items())
        said = f"{layout_words(report)}, {sizes}: {y:.4g} per GPU, {x:.4g} per user"
        body.append(axes.dot(x, y, colour + ("" if fits else " hollow"), said))
    keys = "".join(
        f'<span class="key"><i class="c{place % COLOURS}"></i>{escape(layout)}</span>'
        for place, layout in enumerate(layouts)
    )
    return (
        figure("".join(body), label="Throughput against speed") + f'<div class="keys">{keys}</div>'
    )


def _rates(report: Report) -> tuple[float, float]:
    return report["tokens_per_s_per_user"], report["tokens_per_s_per_gpu"]


def _lengths(report: Report) -> tuple[int, int, int]:
    workload = report["workload"]
    return workload["isl"], workload["osl"], workload["prefix"]


def changes(found: Sequence[Mapping[str, Any]], *, most: int = 16) -> str:
    """Bars to the right where the second run takes more, to the left where it takes less."""
    shown = [item for item in found if item["ms"]][:most]
    if not shown:
        return '<p class="hint">The runs take the same time, op by op.</p>'
    widest = max(abs(item["ms"]) for item in shown)
    longest = max(len(_change_label(item)) for item in shown)
    # From the left: labels (a letter takes 6 pixels at most), bars to the left, bars to the right, their numbers.
    bars, row = 150, 20
    middle = longest * 6 + bars + 12
    parts = []
    for place, item in enumerate(shown):
        width = abs(item["ms"]) / widest * bars
        at = TOP + place * row
        start = middle if item["ms"] > 0 else middle - width
        style = "more" if item["ms"] > 0 else "less"
        label = _change_label(item)
        said = f"{label}: {item['ms']:+.4g} ms of a request"
        parts.append(
            element("rect", titled(said), x=start, y=at, width=width, height=14, class_=style)
        )
        parts.append(text(label, 0, at + 11, "tick"))
        beside = middle + width + 4 if item["ms"] > 0 else middle + 4
        parts.append(text(f"{item['ms']:+.3g} ms", beside, at + 11, "tick"))
    height = TOP + len(shown) * row + 6
    parts.append(element("line", x1=middle, x2=middle, y1=TOP - 4, y2=height - 4, class_="axis"))
    return figure(
        "".join(parts), label="Differences by op", width=middle + bars + 80, height=height
    )


def _change_label(item: Mapping[str, Any]) -> str:
    return f"{item['phase']} {item['name']}"
