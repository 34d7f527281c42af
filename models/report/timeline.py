"""One context pass and one generation step as a timeline that Perfetto and chrome://tracing open.

Format: "Trace Event Format", complete events, times in microseconds:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Google, October 2016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from models.stages import deal, identity
from oplib.oplist import Layer

Report = Mapping[str, Any]  # an object that `price-model --json` prints
Json = dict[str, Any]  # Any: an object that becomes JSON
Turn: TypeAlias = tuple[str, int]  # the structure of a layer and its index in the stack
_ARGS = ("params", "origin", "uncertainty", "bound", "achieved", "energy", "energy_uncertainty")


def timeline(report: Report, layers: Sequence[Layer]) -> Json:
    """The trace object; the events of a phase follow each other and last as long as the phase."""
    events: list[Json] = []
    held = dealt(layers, report["layout"]["pp"])
    for process, phase in enumerate(report["phases"]):
        events.append(_named("process_name", process, 0, phase))
        clock = 0.0
        for stage, ops in groupby(
            (op for op in report["ops"] if op["phase"] == phase), lambda op: op["stage"]
        ):
            events.append(_named("thread_name", process, stage, f"stage {stage}"))
            for op, layer in run_order(list(ops), held[stage]):
                duration = op["ms"] / op["count"] * 1e3
                events.append(
                    {
                        "name": op["name"],
                        "cat": op["op"],
                        "ph": "X",
                        "ts": clock,
                        "dur": duration,
                        "pid": process,
                        "tid": stage,
                        "args": {"op": op["op"], "layer": layer, **{a: op[a] for a in _ARGS}},
                    }
                )
                clock += duration
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": _about(report)}


def _named(what: str, process: int, thread: int, name: str) -> Json:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _about(report: Report) -> Json:
    return {key: report[key] for key in ("model", "system", "backend", "mode", "workload")}


def run_order(
    ops: Sequence[Mapping[str, Any]], held: Sequence[Turn]
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each occurrence of each op with the layer that runs it: the layers `held` one after the other, everything else
    where the list has it. Where the layers are not known, as many as the ops occur."""
    for inside, group in groupby(ops, lambda op: bool(op["layer"])):
        block = list(group)
        if not inside:
            for op in block:
                yield from ((op, "") for _ in range(op["count"]))
            continue
        structures = dict.fromkeys(op["layer"] for op in block)
        turns = [turn for turn in held if turn[0] in structures] or _counted(block)
        total, seen = Counter(layer for layer, _ in turns), Counter[str]()
        for layer, index in turns:
            for op in block:
                if op["layer"] == layer:
                    times = _times(op["count"], seen[layer], total[layer])
                    yield from ((op, f"{layer.rpartition('.')[0]}.{index}") for _ in range(times))
            seen[layer] += 1


def _times(count: int, number: int, layers: int) -> int:
    """Occurrences in one of `layers` equal layers: as equal as whole numbers allow, the first ones take one more."""
    return count // layers + (number < count % layers)


def _counted(block: Sequence[Mapping[str, Any]]) -> list[Turn]:
    most: dict[str, int] = {}
    for op in block:
        most[op["layer"]] = max(most.get(op["layer"], 0), op["count"])
    return [(layer, index) for layer, count in most.items() for index in range(count)]


def dealt(layers: Sequence[Layer], pp: int) -> list[list[Turn]]:
    """The layers of each pipeline stage in the order in which they run."""
    stacks = list(dict.fromkeys(layer.stack for layer in layers))
    order = sorted(
        (stacks.index(layer.stack), index, identity(layer))
        for layer in layers
        for index in layer.indices
    )
    turns = [(name, index) for _, index, name in order]
    if pp == 1:
        return [turns]
    sizes = [sum(held.values()) for held in deal(layers, pp)]
    starts = [sum(sizes[:stage]) for stage in range(pp)]
    return [turns[start : start + size] for start, size in zip(starts, sizes, strict=True)]
