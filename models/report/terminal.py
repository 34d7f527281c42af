"""Prices in a terminal: totals first, then every op; readable at 80 columns and in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from models.compare import by_kind, frontier, request_ms
from models.report.words import (
    PHASES,
    SHORT_ORIGINS,
    four_digits,
    layout_words,
    machine_words,
    memory_words,
    model_name,
    module_words,
    origin_words,
    percent,
    tables_words,
    workload_words,
)
from models.source import Source
from oplib.console import bar, columns, cut, heading, line, plain_table
from oplib.wording import duration, gib

Report = Mapping[str, Any]  # an object that `price-model --json` prints
MOST_RUNS, MOST_OPS = 40, 15  # rows of a sweep and of a comparison


def render_run(report: Report, source: Source, console: Console) -> None:
    """One run: totals, layer kinds, and the ops of both phases."""
    line(console, model_name(report), style="bold")
    line(console, machine_words(report))
    line(console, workload_words(report))
    _totals(report, console)
    for note in report["notes"]:
        line(console, f"note: {note}", indent=2, style="dim")
    for words in module_words(report):
        line(console, f"module: {words}", indent=2, style="dim")
    _layer_kinds(report, source, console)
    for phase in report["phases"]:
        _phase(report, phase, source, console)


def _totals(report: Report, console: Console) -> None:
    console.print()
    rate = f"{four_digits(report['tokens_per_s_per_gpu'])} tokens/s per GPU"
    if report["tokens_per_s_per_user"] is not None:
        rate += f", {four_digits(report['tokens_per_s_per_user'])} per user"
    memory = report["memory"]
    table = plain_table(show_header=False)
    columns(table, _=10, __=14, ___=console.width - 27)
    for label, ms, phase in (
        ("TTFT", report["ttft_ms"], "context"),
        ("TPOT", report["tpot_ms"], "generation"),
    ):
        if ms is not None:
            of = report["phases"][phase]
            origins = origin_words(of["origins"], short=True)
            table.add_row(label, f"{duration(ms)} ± {of['uncertainty']:.0%}", origins)
    request = f"{duration(report['request_ms'])} ± {report['uncertainty']:.0%}"
    table.add_row("request", request, rate)
    table.add_row(
        "memory",
        gib(memory["total"]),
        Text(memory["verdict"], "bold red" if memory["fits"] is False else ""),
    )
    console.print(table)
    line(console, memory_words(memory), indent=11, style="dim")
    line(console, f"energy     {_energy_words(report)}")


def _energy_words(report: Report) -> str:
    if report["joules_per_token"] is not None:
        return f"{report['joules_per_token']:.3g} J per token ± {report['energy_uncertainty']:.0%}"
    ops = [op for op in report["ops"] if op["energy"] is not None]
    known = sum(request_ms({**report, "ops": ops}).values())
    if not known:
        return "not measured"
    return f"known for ops of {known / report['request_ms']:.0%} of the time: no sum"


def _layer_kinds(report: Report, source: Source, console: Console) -> None:
    """ms of each kind of layer in both phases, and its share of each."""
    heading(console, "Layer kinds")
    sums: dict[str, dict[str, float]] = {}
    for op in report["ops"]:
        into = sums.setdefault(op["layer"], dict.fromkeys(report["phases"], 0.0))
        into[op["phase"]] += op["ms"]
    table = plain_table()
    longest = max(len(source.layer_title(layer)) for layer in sums)
    width = max(min(longest, console.width - 38), 6)
    columns(table, layers=width, context=-9, share=-5)
    if "generation" in report["phases"]:
        columns(table, generation=-10, share_=-5)
    for layer, parts in sums.items():
        cells = []
        for phase, ms in parts.items():
            total = report["phases"][phase]["ms"]
            cells += [duration(ms), percent(ms / total if total else 0.0)]
        table.add_row(cut(source.layer_title(layer), width, console), *cells)
    console.print(table)


def _phase(report: Report, phase: str, source: Source, console: Console) -> None:
    ops = [op for op in report["ops"] if op["phase"] == phase]
    heading(console, f"{PHASES[phase]}: {duration(report['phases'][phase]['ms'])}")
    kinds = min(16, max(len(_kind(op)) for op in ops))
    names = min(max(len(op["name"]) for op in ops), console.width - kinds - 50)
    for number, ((stage, layer), group) in enumerate(
        groupby(ops, lambda op: (op["stage"], op["layer"]))
    ):
        title = source.layer_title(layer)
        stages = f"stage {stage}, " if max(op["stage"] for op in ops) else ""
        line(console, f"-- {stages}{title}", style="cyan")
        table = plain_table(show_header=number == 0)
        columns(
            table, name=names, op=kinds, count=-5, time=-7, share=-5, **{"±": -5}, origin=8,
            bound=7, of=-4,
        )  # fmt: skip
        for op in group:
            table.add_row(
                cut(op["name"], names, console, head=True),
                cut(_kind(op), kinds, console),
                f"x{op['count']}",
                duration(op["ms"]),
                percent(op["share"]),
                f"{op['uncertainty']:.0%}",
                SHORT_ORIGINS.get(op["origin"], op["origin"]),
                op["bound"],
                f"{op['achieved']:.0%}",
            )
        console.print(table)


def _kind(op: Mapping[str, Any]) -> str:
    return str(op["op"].removeprefix(f"{op['phase']}_"))


def render_sweep(reports: Sequence[Report], console: Console) -> None:
    """The runs of a sweep: those that none other beats first, each with its throughput, and what does not fit."""
    best = frontier(reports)
    first = reports[0]
    unfit = sum(report["memory"]["fits"] is False for report in reports)
    line(console, model_name(first), style="bold")
    line(console, tables_words(first))
    if first["chunk"] is not None:
        line(console, f"context passes of at most {first['chunk']:,} tokens")
    line(
        console,
        f"{len(reports)} runs, {unfit} do not fit; * best: none of these lengths beats it",
    )
    order = sorted(
        range(len(reports)),
        key=lambda place: (place not in best, -(reports[place]["tokens_per_s_per_gpu"])),
    )
    console.print()
    table = plain_table()
    layout = max(6, *(len(layout_words(report)) for report in reports))
    columns(
        table, _=1, layout=layout, batch=-5, isl=-6, osl=-5, TTFT=-7, TPOT=-7,
        **{"tok/s/GPU": -9, "per user": -8, "memory": 11},
    )  # fmt: skip
    for place in order[:MOST_RUNS]:
        table.add_row(*_run_cells(reports[place], place in best))
    console.print(table)
    if len(reports) > MOST_RUNS:
        line(console, f"and {len(reports) - MOST_RUNS} more: --csv or --json has them all")
    for note in dict.fromkeys(note for report in reports for note in report["notes"]):
        line(console, f"note: {note}", indent=2, style="dim")


def _run_cells(report: Report, best: bool) -> list[str]:
    workload, user = report["workload"], report["tokens_per_s_per_user"]
    return [
        "*" if best else "",
        layout_words(report),
        str(workload["batch"]),
        str(workload["isl"]),
        str(workload["osl"]),
        duration(report["ttft_ms"]),
        duration(report["tpot_ms"]),
        f"{report['tokens_per_s_per_gpu']:.1f}",
        "-" if user is None else f"{user:.1f}",
        _memory_cell(report["memory"]),
    ]


def _memory_cell(memory: Mapping[str, Any]) -> str:
    """The bytes, or how many too many."""
    if memory["fits"] is False and memory["total"] is not None:
        return f"+{gib(memory['total'] - memory['capacity'])}!"
    return "too much!" if memory["fits"] is False else gib(memory["total"])


def render_versus(
    first: Report, second: Report, found: Sequence[dict[str, Any]], console: Console
) -> None:
    """Two runs side by side, and which kinds and ops make the difference."""
    for label, report in (("first", first), ("second", second)):
        words = f"{model_name(report)}: {machine_words(report)}, {workload_words(report)}"
        line(console, f"{label:8}{words}")
    console.print()
    table = plain_table()
    columns(table, _=12, first=-10, second=-10, ratio=-7)
    for label, key in (
        ("TTFT ms", "ttft_ms"),
        ("TPOT ms", "tpot_ms"),
        ("request ms", "request_ms"),
        ("tok/s/GPU", "tokens_per_s_per_gpu"),
        ("tok/s/user", "tokens_per_s_per_user"),
    ):
        one, other = first[key], second[key]
        ratio = f"{other / one:.3g}" if one and other is not None else "-"
        cells = ("-" if value is None else four_digits(value) for value in (one, other))
        table.add_row(label, *cells, ratio)
    console.print(table)
    for label, report in (("first", first), ("second", second)):
        line(console, f"{label:8}memory {report['memory']['verdict']}")
    _differences("What makes the difference, by kind, ms of a request", by_kind(found), console)
    _differences("and by op", list(found), console)


def _differences(title: str, found: Sequence[Mapping[str, Any]], console: Console) -> None:
    heading(console, title)
    total = sum(abs(item["ms"]) for item in found)
    labels = [item.get("name") or item["op"] for item in found]
    width = min(max(map(len, labels), default=4), max(console.width - 54, 12))
    table = plain_table()
    columns(
        table, phase=10, op=width, first=-9, second=-9, more=-9, share=-5, _=5
    )  # fmt: skip
    for item, label in list(zip(found, labels, strict=True))[:MOST_OPS]:
        share = abs(item["ms"]) / total if total else 0.0
        table.add_row(
            item["phase"],
            cut(label, width, console, head=True),
            *(
                "-" if item[key] is None else f"{item[key]:.4g}"
                for key in ("first_ms", "second_ms")
            ),
            f"{item['ms']:+.4g}",
            percent(share),
            bar(share, 5, console),
        )
    console.print(table)
    if len(found) > MOST_OPS:
        line(console, f"and {len(found) - MOST_OPS} more, see --json", indent=2, style="dim")
