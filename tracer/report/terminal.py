"""The report in a terminal: verdict first, checklist last, readable at 80 columns and in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from oplib.console import bar, columns, cut, heading, line, plain_table
from oplib.wording import duration, scaled, short_params
from tracer.report.coverage import render_coverage
from tracer.report.view import as_list, index_ranges, layer_title, phase_workload, verdict

Report = Mapping[str, Any]  # the object that `trace-model --json` prints
STYLES = {"S1": "bold green", "S2": "bold yellow", "S1-or-S2": "bold cyan", "S3": "bold red"}
SHARE, BOUND = 5, 7  # widths of "48.9%" and "compute"


def render_terminal(report: Report, console: Console) -> None:
    """Print the whole report to `console`."""
    _verdict(report, console)
    _layers(report, console)
    for phase in report["op_list"]["phases"]:
        _phase(report, phase, console)
    _unsupported(report, console)
    render_coverage(report, console)
    _conservation(report, console)
    _cache(report, console)
    _checklist(report, console)


def _verdict(report: Report, console: Console) -> None:
    situation = report["situation"]
    head = Text(situation, style=STYLES.get(situation, "bold"))
    line(console, head.append(f"  {verdict(report)}", style="default"))
    quantization = report.get("quantization") or {}
    facts = [
        report["architecture"] + ("" if report.get("known_architecture", True) else " (new)"),
        f"{scaled(report['parameters'], '', digits=4).replace(' G', ' billion')} parameters",
        f"{scaled(report['weight_bytes'], 'B', digits=4)} of weights",
        f"{sum(layer['count'] for layer in report['layers'])} layers",
    ]
    if quantization.get("method"):
        facts.append(str(quantization["method"]))
    line(console, report["model"], style="bold")
    line(console, ", ".join(facts))
    for relative in as_list(report.get("relatives"))[:3]:
        differs = "; ".join(as_list(relative.get("differs")))
        near = f"near {relative['architecture']} ({relative['similarity']:.0%})"
        line(console, f"{near}{': ' + differs if differs else ''}", indent=2, style="dim")
    notes = [*as_list(report.get("notes")), *as_list(quantization.get("notes"))]
    if report.get("full_depth"):
        notes.append("traced at full depth: every layer, not one of each kind")
    for note in notes:
        line(console, f"note: {note}", indent=2, style="dim")


def _layers(report: Report, console: Console) -> None:
    heading(console, "Layers")
    rows = [
        [item["stack"], item["class"], index_ranges(item["indices"])] for item in report["layers"]
    ]
    stack, klass, indices = (max(7, *(len(row[i]) for row in rows)) for i in range(3))
    free = console.width - 13
    stack = min(stack, free // 3)
    klass = min(klass, (free - stack) * 2 // 3)
    indices = min(indices, free - stack - klass)
    table = plain_table()
    columns(table, stack=stack, **{"class": klass}, kept=-4, count=-5, indices=indices)
    for item, row in zip(report["layers"], rows, strict=True):
        table.add_row(
            cut(row[0], stack, console, head=True),
            cut(row[1], klass, console),
            str(item["representative"]),
            str(item["count"]),
            cut(row[2], indices, console),
        )
    console.print(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Column widths of the op table of one phase."""

    name: int
    op: int
    params: int
    count: int
    bar: int

    @classmethod
    def of(cls, rows: list[list[str]], console: Console) -> Widths:
        """80 columns are the least; names and parameters share what the rest leaves them."""
        longest = [max(len(row[column]) for row in rows) for column in range(4)]
        op, count, bar = min(16, longest[1]), max(5, longest[3]), 5
        free = max(80, console.width) - op - count - bar - SHARE - BOUND - 6
        name = min(longest[0], max(free // 2, free - longest[2]))
        params = min(longest[2], free - name)
        return cls(
            name=name, op=op, params=params, count=count, bar=bar + min(15, free - name - params)
        )


def _phase(report: Report, phase: str, console: Console) -> None:
    ops = report["op_list"]["phases"][phase]
    prices = (report.get("sol") or {}).get(phase) or [None] * len(ops)
    total = sum(p["ms"] * op["count"] for op, p in zip(ops, prices, strict=True) if p)
    where = " ".join(f"{axis}={value}" for axis, value in phase_workload(report, phase).items())
    calls = sum(op["count"] for op in ops)
    heading(
        console, f"{phase.capitalize()}: {len(ops)} distinct ops, {calls} calls, "
        f"{report['op_list']['lowering']} lowering",
    )  # fmt: skip
    if total:
        line(console, f"{duration(total)} at the speed of light of {report['system']}, {where}")
    texts = [_op_texts(op, phase) for op in ops]
    widths = Widths.of(texts, console)
    rows = list(zip(ops, texts, prices, strict=True))
    for number, (layer, group) in enumerate(groupby(rows, lambda row: row[0].get("layer", ""))):
        line(console, f"-- {layer_title(report, layer)}", style="cyan")
        table = plain_table(show_header=number == 0)
        columns(
            table, name=widths.name, op=widths.op, parameters=widths.params,
            count=-widths.count, share=-SHARE, _=widths.bar, bound=BOUND,
        )  # fmt: skip
        for op, (name, kind, params, count), price in group:
            share = price["ms"] * op["count"] / total if price and total else 0.0
            table.add_row(
                cut(name, widths.name, console, head=True),
                cut(kind, widths.op, console),
                cut(params, widths.params, console),
                count,
                ("100%" if share > 0.9995 else f"{share:.1%}") if price else "-",
                bar(share, widths.bar, console),
                price["bound"] if price else "-",
            )
        console.print(table)


def _op_texts(op: Mapping[str, Any], phase: str) -> list[str]:
    """Name, kind, parameters and count of one op."""
    kind = op["op"].removeprefix(f"{phase}_")
    return [op["name"], kind, short_params(op["params"]), f"x{op['count']}"]


def _unsupported(report: Report, console: Console) -> None:
    items = as_list(report.get("unsupported"))
    if not items:
        return
    heading(console, "Unsupported primitives: no op claims them, each costs at least this")
    places: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in items:
        places.setdefault((item["primitive"], item["source"]), []).append(item)
    for (primitive, source), group in sorted(places.items(), key=lambda pair: -_cost(pair[1])):
        first = group[0]
        line(console, Text(primitive, style="bold red").append(f"  {source}", style="default"))
        if first.get("line_text"):
            line(console, first["line_text"].strip(), indent=4, style="dim")
        for item in group:
            bound = item.get("bound_ms")
            cost = f"at least {duration(bound * item['count'])}" if bound else "cost unknown"
            line(console, f"{item['phase']}: x{item['count']}, {cost}", indent=2)
        where = ", ".join(as_list(first.get("where")))
        klass = f" ({first['module_class']})" if first.get("module_class") else ""
        line(console, f"in {where}{klass}", indent=2)
        line(console, f"nearest op: {first.get('nearest') or 'none'}; {first['reason']}", indent=2)


def _cost(items: list[Mapping[str, Any]]) -> float:
    """Milliseconds that these primitives take at least, all calls together."""
    return sum((item.get("bound_ms") or 0.0) * item["count"] for item in items)


def _conservation(report: Report, console: Console) -> None:
    sums = report["conservation"]
    weights, flops, nodes = sums["weights"], sums["flops"], sums["nodes"]
    heading(console, "Conservation: " + ("exact" if sums["exact"] else "NOT exact"))
    idle = weights.get("idle", 0)
    held = weights["ops"] + weights.get("primitives", 0) + idle
    lines = [_balance("weight bytes", "model", weights["model"], held)]
    if idle:
        lines[-1] += f"; {idle:,} of them idle"
    uncounted = flops.get("uncounted", 0)
    known = flops["ops"] if flops["ops"] == flops["counter"] else flops["ops"] - uncounted
    lines.append(_balance("FLOPs", "counter", flops["counter"], known))
    if uncounted:
        lines[-1] += f"; {uncounted:,} more in ops the counter does not know"
    parts = ["ops", "pointwise", "free", "primitive"]
    split = ", ".join(f"{nodes[part]:,} {part}" for part in parts)
    lost = nodes["total"] - sum(nodes[part] for part in parts)
    state = "each in one place" if lost == 0 else f"{lost:,} in no place"
    lines.append(f"nodes: {nodes['total']:,}, {state} ({split})")
    for said in lines:
        line(console, said, indent=2)
    _idle(report, console)


def _idle(report: Report, console: Console) -> None:
    """Weights that lie in memory and that no forward pass reads."""
    if not (items := as_list(report.get("idle"))):
        return
    heading(console, "Idle weights: in memory, read by no forward pass")
    for item in items:
        names = ", ".join(item["parameters"][:4]) + (", ..." if len(item["parameters"]) > 4 else "")
        head = f"{scaled(item['bytes'], 'B')} in x{item['count']} {item['module'] or 'the model'}"
        line(console, f"{head} ({item['class']}): {item['note']}", indent=2)
        line(console, names, indent=4, style="dim")


def _balance(label: str, reference: str, expected: int, found: int) -> str:
    """`weight bytes: exact, 1,234`, or both sides and their difference."""
    if expected == found:
        return f"{label}: exact, {expected:,}"
    return f"{label}: {reference} {expected:,}, ops {found:,}, missing {expected - found:,}"


def _cache(report: Report, console: Console) -> None:
    cache = report["kv_cache"]
    heading(console, "KV cache")
    text = f"{cache['bytes_per_token']:,} bytes per token"
    if cache.get("bytes_per_sequence"):
        text += f", and {cache['bytes_per_sequence']:,} bytes per sequence at any length"
    line(console, text, indent=2)


def _checklist(report: Report, console: Console) -> None:
    items = as_list(report.get("checklist"))
    if not items:
        return
    heading(console, "Checklist")
    for number, item in enumerate(items, 1):
        line(console, f"{item.get('step') or number}. {item['what']}")
        for field in ("file", "module", "inputs"):
            if item.get(field):
                line(console, f"{field}: {item[field]}", indent=5, style="dim")
