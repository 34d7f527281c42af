"""The price page: one HTML file that loads nothing. Tables and plots are in the markup; no script runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any

from models.compare import frontier
from models.outcome import Outcome, reports, run
from models.report import plots
from models.report.words import (
    PHASES,
    four_digits,
    layout_words,
    machine_words,
    memory_words,
    model_name,
    module_words,
    origin_words,
    percent,
    table_share,
    tables_words,
    workload_words,
)
from models.source import Source
from models.workload import Workload
from oplib.wording import duration, gib, short_params
from perfdb.systems import load_system

Report = Mapping[str, Any]  # an object that `price-model --json` prints
_NO_BREAK = "\u00a0"  # a space that keeps a size and its unit in one line
_BATCHES = tuple(2**n for n in range(11))  # of the batch curve


def render_page(
    outcomes: Sequence[Outcome],
    found: Sequence[Report],
    second: Sequence[Report],
    changed: Sequence[Mapping[str, Any]],
) -> str:
    """The page of one run, of a sweep, or of two runs with the differences of their ops."""
    first = found[0]
    sections = []
    if second:
        sections.append(_versus(first, second[0], changed))
    if len(found) > 1:
        sections.append(_sweep(found))
    else:
        sections += _run(first, outcomes[0])
    whole = len(found) > 1
    parts = {
        "title": escape(f"{model_name(first)}: price"),
        "model": escape(model_name(first)),
        "machine": escape(tables_words(first) if whole else machine_words(first)),
        "workload": escape(f"{len(found)} runs" if whole else workload_words(first)),
        "style": _file("price.css"),
        "sections": "\n".join(sections),
    }
    # One pass, so that text in the report that looks like a slot stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], _file("price.html"))


def _file(name: str) -> str:
    return files("models.report").joinpath("page", name).read_text(encoding="utf-8")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _run(report: Report, outcome: Outcome) -> list[str]:
    """Sections of one run."""
    notes = "".join(
        f"<li>{escape(note)}</li>" for note in (*report["notes"], *module_words(report))
    )
    sections = [
        f'<section><div class="cards">{_cards(report)}</div>{f"<ul>{notes}</ul>" if notes else ""}</section>',
        _section("Where the time goes", plots.shares(report)),
        '<div class="pair">'
        + _section("Roofline", plots.roofline(report, load_system(report["system"])) + _hint())
        + _section("Over the batch", plots.batch_curve(_batches(report, outcome)) + _hollow())
        + "</div>",
    ]
    for phase in report["phases"]:
        sections.append(
            _section(
                f"{PHASES[phase]}: {duration(report['phases'][phase]['ms'])}",
                _op_table(report, phase, outcome.source),
            )
        )
    return sections


def _hint() -> str:
    return (
        '<p class="hint"><span class="context">context</span> and <span class="generation">generation</span> ops, '
        "larger with their share; point at one for its name.</p>"
    )


def _hollow() -> str:
    return '<p class="hint">Hollow points do not fit in memory; lengths as in this run.</p>'


def _batches(report: Report, outcome: Outcome) -> list[Report]:
    """The same run at other batches."""
    sizes = {name: size for name, size in report["workload"].items() if name != "batch"}
    import numpy

    batches = numpy.array(sorted({*_BATCHES, report["workload"]["batch"]}))
    workload = Workload(batch=batches, **sizes, chunk=report["chunk"] or 0)
    curve = run(outcome.source, outcome.db, [outcome.layout], workload, modules=outcome.modules)
    return [dict(item) for item in reports(curve[0])]


def _cards(report: Report) -> str:
    cards = [
        _card("time to first token", report["ttft_ms"], report["phases"]["context"]),
        _card("time per output token", report["tpot_ms"], report["phases"].get("generation") or {}),
        _box(duration(report["request_ms"]), "request", f"± {report['uncertainty']:.0%}"),
        _box(
            four_digits(report["tokens_per_s_per_gpu"]),
            "tokens/s per GPU",
            ""
            if report["tokens_per_s_per_user"] is None
            else f"{four_digits(report['tokens_per_s_per_user'])} per user",
        ),
    ]
    memory = report["memory"]
    style = "bad" if memory["fits"] is False else ""
    parts = memory_words(memory).replace(" ", _NO_BREAK).replace(f",{_NO_BREAK}", ", ")
    cards.append(_box(gib(memory["total"]), "memory per GPU", parts, style))
    if report["joules_per_token"] is not None:
        energy = f"{report['joules_per_token']:.3g} J"
        cards.append(_box(energy, "energy per token", f"± {report['energy_uncertainty']:.0%}"))
    return "".join(cards)


def _card(label: str, ms: float | None, phase: Report) -> str:
    if ms is None:
        return _box("-", label, "no step runs")
    return _box(
        duration(ms), label, f"± {phase['uncertainty']:.0%}; {origin_words(phase['origins'])}"
    )


def _box(value: str, label: str, more: str, style: str = "") -> str:
    return (
        f'<div class="card {style}"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<span>{escape(more)}</span></div>"
    )


_OP_HEAD = (
    "name", "op", "parameters", "#count", "#time", "#share", "#±", "origin", "bound", "#of bound", "#FLOPs/byte",
)  # fmt: skip


def _op_table(report: Report, phase: str, source: Source) -> str:
    rows = []
    ops = [op for op in report["ops"] if op["phase"] == phase]
    for (stage, layer), group in groupby(ops, lambda op: (op["stage"], op["layer"])):
        stages = f"stage {stage}, " if max(op["stage"] for op in ops) else ""
        title = escape(stages + source.layer_title(layer))
        rows.append(f'<tr class="layer"><td colspan="{len(_OP_HEAD)}">{title}</td></tr>')
        rows += [_op_row(op) for op in group]
    return _table(_OP_HEAD, rows)


def _op_row(op: Mapping[str, Any]) -> str:
    intensity = "-" if op["intensity"] is None else f"{op['intensity']:.4g}"
    return _row(
        ("", op["name"]),
        ("", op["op"]),
        ("mono", short_params(op["params"])),
        ("n", str(op["count"])),
        ("n", duration(op["ms"])),
        ("n", percent(op["share"])),
        ("n", f"{op['uncertainty']:.1%}"),
        (op["origin"], op["origin"]),
        ("", op["bound"]),
        ("n", f"{op['achieved']:.0%}"),
        ("n", intensity),
    )


def _row(*cells: tuple[str, str], style: str = "") -> str:
    inner = "".join(f'<td class="{kind}">{escape(value)}</td>' for kind, value in cells)
    return f'<tr class="{style}">{inner}</tr>'


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table; `#` marks a column of numbers."""
    names = "".join(
        f'<th class="{"n" if name.startswith("#") else ""}">{escape(name.lstrip("#"))}</th>'
        for name in head
    )
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


_SWEEP_HEAD = (
    "layout", "#batch", "#isl", "#osl", "#prefix", "#TTFT", "#TPOT", "#request", "#tokens/s per GPU", "#per user",
    "#±", "#from tables", "memory",
)  # fmt: skip


def _sweep(found: Sequence[Report]) -> str:
    best = frontier(found)
    order = sorted(
        range(len(found)),
        key=lambda place: (place not in best, -found[place]["tokens_per_s_per_gpu"]),
    )
    rows = [_sweep_row(found[place], place in best) for place in order]
    hint = (
        '<p class="hint">Dashed: of the runs that fit, those that no other beats, for each length of prompt and '
        "answer. Hollow points do not fit.</p>"
    )
    picture = _section("Throughput against speed for a user", plots.pareto(found) + hint)
    return picture + _section(f"{len(found)} runs, the best first", _table(_SWEEP_HEAD, rows))


def _sweep_row(report: Report, best: bool) -> str:
    user = report["tokens_per_s_per_user"]
    return _row(
        ("", layout_words(report)),
        *(("n", str(size)) for size in report["workload"].values()),
        *(("n", duration(report[key])) for key in ("ttft_ms", "tpot_ms", "request_ms")),
        ("n", f"{report['tokens_per_s_per_gpu']:.1f}"),
        ("n", "-" if user is None else f"{user:.1f}"),
        ("n", f"{report['uncertainty']:.0%}"),
        ("n", f"{table_share(report):.0%}"),
        ("bad" if report["memory"]["fits"] is False else "", report["memory"]["verdict"]),
        style="best" if best else "",
    )


def _versus(first: Report, second: Report, changed: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for label, key in (
        ("TTFT, ms", "ttft_ms"),
        ("TPOT, ms", "tpot_ms"),
        ("request, ms", "request_ms"),
        ("tokens/s per GPU", "tokens_per_s_per_gpu"),
        ("tokens/s per user", "tokens_per_s_per_user"),
    ):
        one, other = first[key], second[key]
        ratio = f"{other / one:.3g}" if one and other is not None else "-"
        values = (("n", "-" if value is None else four_digits(value)) for value in (one, other))
        rows.append(_row(("", label), *values, ("n", ratio)))
    rows.append(
        _row(("", "memory"), *(("n", r["memory"]["verdict"]) for r in (first, second)), ("", ""))
    )
    runs = "".join(
        f"<li>{label}: {escape(model_name(r))}, {escape(machine_words(r))}, {escape(workload_words(r))}</li>"
        for label, r in (("first", first), ("second", second))
    )
    table = _table(("", "#first", "#second", "#ratio"), rows)
    picture = plots.changes(changed)
    return _section("Two runs", f"<ul>{runs}</ul>{table}") + _section(
        "Which ops make the difference of a request", picture
    )
