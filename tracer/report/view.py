"""Words that the terminal report and the page share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VERDICTS = {
    "S1": "Every operation is known and measured at these parameters.",
    "S2": "Every operation is known; some parameter points have no measurements yet.",
    "S1-or-S2": "Every operation is known. Whether they are measured was not checked.",
    "S3": "Some primitives are unknown: no op claims them, so the op list is a lower bound.",
}


def index_ranges(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` as `0-2, 5`."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def phase_workload(report: Mapping[str, Any], phase: str) -> dict[str, int]:
    """The b, s and p of one phase; see the package docstring for a single workload."""
    workload = report.get("workload") or {"b": 1, "s": 1, "p": 0}
    if phase in workload:
        return dict(workload[phase])
    if "b" not in workload:  # one per phase, but not for this one
        workload = next(iter(workload.values()))
    if phase == "generation":
        return {"b": workload["b"], "s": 1, "p": workload["p"] + workload["s"]}
    return {axis: workload[axis] for axis in ("b", "s", "p")}


def verdict(report: Mapping[str, Any]) -> str:
    """One sentence on what the situation means, with the numbers of this model."""
    situation = report["situation"]
    sentence = VERDICTS.get(situation, "")
    if situation == "S3":
        kinds = sorted({item["primitive"] for item in report["unsupported"]})
        noun = "primitive is" if len(kinds) == 1 else "primitives are"
        sentence = f"{len(kinds)} {noun} unknown: no op claims them, the op list is a lower bound."
    coverage = report.get("coverage") or {}
    if situation in ("S1", "S2") and coverage.get("checked"):
        tables = f"{coverage['system']} {coverage['backend']} {coverage['version']}"
        if situation == "S1":
            return f"Every operation is known, and {tables} has measured it all."
        sentence = (
            f"Every operation is known; {len(coverage['missing'])} points have no measurement in "
            f"{tables}."
        )
    return sentence


def as_list(value: Any) -> list[Any]:
    """A list of what may be a list, one value or nothing."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def layer_title(report: Mapping[str, Any], layer: str) -> str:
    """What heads the ops of one representative layer."""
    for item in report["layers"]:
        if item.get("id") == layer:
            return f"{layer} {item['class']} x{item['count']}"
    return layer or "outside the layers"
