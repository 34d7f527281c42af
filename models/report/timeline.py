"""One context pass and one generation step as a timeline that Perfetto and chrome://tracing open.

Format: "Trace Event Format", complete events, times in microseconds:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Google, October 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from oplib.oplist import Layer

Report = Mapping[str, Any]  # an object that `price-model --json` prints
Json = dict[str, Any]  # Any: an object that becomes JSON
_ARGS = ("params", "origin", "uncertainty", "bound", "achieved", "energy")


def timeline(report: Report, layers: Sequence[Layer]) -> Json:
    """The trace object; the events of a phase follow each other and last as long as the phase."""
    events: list[Json] = []
    for process, phase in enumerate(report["phases"]):
        events.append(_named("process_name", process, 0, phase))
        clock = 0.0
        for stage, ops in groupby(
            (op for op in report["ops"] if op["phase"] == phase), lambda op: op["stage"]
        ):
            events.append(_named("thread_name", process, stage, f"stage {stage}"))
            for op, layer in run_order(list(ops), layers):
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
    ops: Sequence[Mapping[str, Any]], layers: Sequence[Layer]
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each occurrence of each op with the layer that runs it: layers in the order of their indices, everything else
    where the list has it."""
    for inside, group in groupby(ops, lambda op: bool(op["layer"])):
        block = list(group)
        if not inside:
            for op in block:
                yield from ((op, "") for _ in range(op["count"]))
            continue
        for layer, turn, last in _turns(block, layers):
            for op in block:
                if op["layer"] == layer:
                    times = _times(op["count"], turn, last)
                    yield from ((op, f"{layer.rpartition('.')[0]}.{turn[1]}") for _ in range(times))


def _times(count: int, turn: tuple[int, int], layers: int) -> int:
    """Occurrences in one of `layers` layers: as equal as whole numbers allow, the first layers take one more."""
    return count // layers + (turn[0] < count % layers)


def _turns(
    block: Sequence[Mapping[str, Any]], layers: Sequence[Layer]
) -> list[tuple[str, tuple[int, int], int]]:
    """Layers in the order in which they run: structure, (number among its equals, index), how many equals."""
    known = {f"{layer.stack}.{layer.representative}": layer.indices for layer in layers}
    structures = list(dict.fromkeys(op["layer"] for op in block))
    turns = []
    for place, structure in enumerate(structures):
        indices = known.get(structure)
        if indices is None:
            indices = tuple(range(max(op["count"] for op in block if op["layer"] == structure)))
        stack = structure.rpartition(".")[0]
        for number, index in enumerate(sorted(indices)):
            turns.append((stack, index, place, (structure, (number, index), len(indices))))
    stacks = list(dict.fromkeys(turn[0] for turn in turns))
    turns.sort(key=lambda turn: (stacks.index(turn[0]), turn[1], turn[2]))
    return [turn[3] for turn in turns]
