"""docs/alignment.md of docs/alignment.json: sub-modules and whole models beside the sums of their ops.

    python tools/docs_alignment.py

writes docs/alignment.svg, the picture on that page.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from models.report.svg import Axes, figure  # noqa: E402

Json: TypeAlias = dict[str, Any]  # Any: an object decoded from JSON
Rows: TypeAlias = Sequence[Json]
DATA = ROOT / "docs" / "alignment.json"
TEXT = ROOT / "tools" / "alignment_text.md"
LIMIT = 0.10
UNSTEADY = 0.05  # as collector.align.rested has it
SLOWER = 1.03  # a time at rest over that under load: no clock explains more
LOADED, RESTED = "measured_ms", "rested_ms"
#: Lines of the summary of sub-modules: what stands beside which time.
LINES = (
    (LOADED, "predicted_ms", "under load: prices by our tables, as `price-model` takes them"),
    (LOADED, "held_out_ms", "under load: prices, every point of the model hidden"),
    (RESTED, "standalone_ms", "at rest: the same kernels alone"),
    (RESTED, "rested_predicted_ms", "at rest: prices by our tables, products at rest"),
    (RESTED, "rested_held_out_ms", "at rest: prices, every point of the model hidden"),
)
PHASES = ("context", "generation")
STYLE = (
    "text{font:11px sans-serif;fill:#444}.middle{text-anchor:middle}.end{text-anchor:end}.name{font-weight:bold}"
    ".grid{stroke:#ddd}.line{fill:none;stroke:#bbb}.roof{stroke:#666}.dot{fill-opacity:.7}"
    ".context{fill:#2563c9}.generation{fill:#d9730d}"
)


def read() -> list[Json]:
    """The rows that were measured."""
    rows: list[Json] = json.loads(DATA.read_text(encoding="utf-8"))
    return rows


def render() -> str:
    """The page: the text beside this file, its places in braces filled in."""
    every = read()
    rows = [row for row in every if row[LOADED] or row[RESTED]]
    whole, parts = (
        [row for row in rows if (row["role"] == "model") is asked] for asked in (True, False)
    )
    loaded = [row for row in parts if row[LOADED]]
    # The largest difference from eager code, with experts and without.
    away = {True: 0.0, False: 0.0}
    for row in rows:
        away[row["experts"]] = max(away[row["experts"]], row["difference"] or 0.0)
    values = {
        "parts": len(parts),
        "loaded": len(loaded),
        "loaded_models": len({row["model"] for row in loaded}),
        "models": len({row["model"] for row in parts}),
        "graphs": sum(bool(row["graph"]) for row in parts),
        "summary": "\n".join(_summary(parts)),
        "h200": sum(row["system"] == "h200_sxm" for row in loaded),
        "whole_summary": "\n".join(_whole_summary(whole)),
        "unsteady": sum(unsteady(row, LOADED) for row in rows),
        "unsteady_rested": sum(unsteady(row, RESTED) for row in parts),
        "single": sum(row.get("sampling") == "single" for row in parts),
        "away": f"{away[False]:.2f}",
        "away_experts": f"{away[True]:.2f}",
        "match": sum(row["kernels_match"] is True for row in parts),
        "new_match": sum(row["kernels_match"] is True for row in parts if row[LOADED]),
        "layers": "\n".join(_layers(parts)),
        "whole": "\n".join(_whole(whole)),
        "beyond": "\n".join(_beyond(every)),
    }
    text = TEXT.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def unsteady(row: Json, time: str) -> bool:
    """Whether another process was on the GPU: samples disagree, or a row is slower at rest than under load."""
    if time == LOADED:
        return bool(row[LOADED]) and row["spread"] > UNSTEADY
    slower = bool(row[LOADED] and row[RESTED]) and row[RESTED] > SLOWER * row[LOADED]
    return slower or (row.get("rested_spread") or 0.0) > UNSTEADY


def gap(row: Json, price: str, time: str) -> float | None:
    """By how much a sum is over a time, where both are known."""
    return row[price] / row[time] - 1 if row.get(price) and row.get(time) else None


def gaps(rows: Rows, price: str, time: str) -> list[float]:
    """Those of the rows that have one and were not disturbed."""
    found = [gap(row, price, time) for row in rows if not unsteady(row, time)]
    return [one for one in found if one is not None]


def _summary(rows: Rows) -> Iterator[str]:
    yield "| median gap, share below 10 % | GPU | rows | all | prompts | generation |"
    yield "|---|---|---|---|---|---|"
    for time, price, words in LINES:
        for system in sorted({row["system"] for row in rows}):
            own = [row for row in rows if row["system"] == system]
            groups = [own, *([row for row in own if row["phase"] == phase] for phase in PHASES)]
            found = [gaps(group, price, time) for group in groups]
            cells = [f"{_median(one):.1%}, {_below(one):.0%}" for one in found]
            yield f"| {words} | {_gpu(own[0])} | {len(found[0])} | " + " | ".join(cells) + " |"


def _whole_summary(rows: Rows) -> Iterator[str]:
    yield "| whole models | GPU | rows | mean absolute error | median | below 10 % |"
    yield "|---|---|---|---|---|---|"
    for one_graph, words in ((False, "layer by layer"), (True, "in one graph")):
        for phase, time in zip(PHASES, ("time to the first token", "time of a step"), strict=True):
            chosen = [r for r in rows if r["one_graph"] is one_graph and r["phase"] == phase]
            for gpu in sorted({_gpu(row) for row in chosen}):
                found = gaps([r for r in chosen if _gpu(r) == gpu], "predicted_ms", LOADED)
                mean = statistics.mean(map(abs, found))
                head = f"| {time}, compiled {words} | {gpu} | {len(found)} |"
                yield f"{head} {mean:.1%} | {_median(found):.1%} | {_below(found):.0%} |"


def _median(found: Sequence[float]) -> float:
    return statistics.median(map(abs, found))


def _below(found: Sequence[float]) -> float:
    return sum(abs(one) < LIMIT for one in found) / len(found)


def _whole(rows: Rows) -> Iterator[str]:
    yield "| model | GPU | layers | compiled | phase | workload | price | measured | gap | from eager | |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        found = gap(row, "predicted_ms", LOADED)
        yield (
            f"| {_short(row)} | {_gpu(row)} | {row['layers']} | {'one graph' if row['one_graph'] else 'by layer'} | "
            f"{row['phase']} | {row['workload']} | {row['predicted_ms']:.3f} ms | {row[LOADED]:.3f} ms | "
            f"{found:+.1%} | {row['difference']:.2f} | {'disturbed' if unsteady(row, LOADED) else ''} |"
        )


def _layers(rows: Rows) -> Iterator[str]:
    """A line per sub-module: its largest gaps of either sign."""
    yield "| model | GPU | part | under load, prompts | generation | at rest, prompts | generation | same kernels |"
    yield "|---|---|---|---|---|---|---|---|"
    columns: list[tuple[str, str, str]] = [
        (time, price, phase)
        for time, price in ((LOADED, "predicted_ms"), (RESTED, "rested_predicted_ms"))
        for phase in PHASES
    ]
    names = ("model", "submodule", "system")
    for key in sorted({tuple(row[name] for name in names) for row in rows}):
        own = [row for row in rows if tuple(row[name] for name in names) == key]
        cells = []
        for time, price, phase in columns:
            found = gaps([row for row in own if row["phase"] == phase], price, time)
            cells.append(f"{min(found):+.1%} to {max(found):+.1%}" if found else "")
        same = f"{sum(row['kernels_match'] is True for row in own)} of {len(own)}"
        head = f"| {_short(own[0])} | {_gpu(own[0])} | `{own[0]['submodule']}` | "
        yield head + " | ".join(cells) + f" | {same} |"


def _beyond(rows: Rows) -> Iterator[str]:
    """Sub-modules whose gap is over the limit at either clock, and whatever failed."""
    yield "| model | GPU | sub-module | phase | workload | clock | measured | gap | kernels alone |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        head = f"| {_short(row)} | {_gpu(row)} | `{row['submodule']}` | {row['phase']} | {row['workload']} |"
        if row["failed"]:
            yield f"{head} | | {row['failed'][:90]} | |"
        if row["role"] == "model":
            continue
        alone = gap(row, "standalone_ms", RESTED)
        for time, price, clock in (
            (LOADED, "predicted_ms", "load"),
            (RESTED, "rested_predicted_ms", "rest"),
        ):
            found = gap(row, price, time)
            if found is not None and abs(found) >= LIMIT:
                clock += ", disturbed" if unsteady(row, time) else ""
                yield (
                    f"{head} {clock} | {row[time] * 1e3:.1f} us | {found:+.1%} | "
                    f"{'' if alone is None else f'{alone:+.1%}'} |"
                )


def _gpu(row: Json) -> str:
    return str(row["system"]).partition("_")[0].upper()


def _short(row: Json) -> str:
    return str(row["model"]).rpartition("--")[2]


def picture() -> str:
    """Measured against predicted under load, sub-modules and whole models, both logarithmic."""
    rows = [row for row in read() if row[LOADED] and not unsteady(row, LOADED)]
    points = [(row[LOADED], row["predicted_ms"]) for row in rows]
    axes = Axes.over(points, ("measured, ms", "predicted, ms"), log=(True, True))
    lines = [axes.ratio(f, "roof" if f == 1 else "") for f in (0.9, 1, 1.1)]
    dots = [
        axes.dot(x, y, row["phase"], "", radius=3) for (x, y), row in zip(points, rows, strict=True)
    ]
    drawn = figure(axes.draw() + "".join(lines + dots), label="predicted against measured time")
    opening = '<svg xmlns="http://www.w3.org/2000/svg" '
    body = drawn.replace("<svg ", opening, 1).replace(">", f"><style>{STYLE}</style>", 1)
    return body + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "alignment.svg").write_text(picture(), encoding="utf-8")
