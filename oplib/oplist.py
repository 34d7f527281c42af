"""OpList: the ops of both phases of a model, and its JSON, the exchange format between the programs.

Three shapes are read: a whole `trace-model --json` report, its `op_list` object, and a file holding either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oplib.arithmetic import Amount
from oplib.cost import Cost
from oplib.errors import OpListFormatError
from oplib.lowerings import LOWERINGS
from oplib.op import Op

SCHEMA = 1
PHASES = ("context", "generation")
MARKS = ("op_list", "phases", "lowering")  # fields of a report or an op list that no config has

Json = dict[str, Any]  # Any: an object decoded from JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class OpList:
    """The ops of each phase under one lowering."""

    lowering: str
    phases: Mapping[str, tuple[Op, ...]]

    def ops(self, phase: str) -> tuple[Op, ...]:
        """The ops of one phase."""
        if phase not in self.phases:
            raise OpListFormatError(
                f"The op list has no phase {phase!r}.", f"It has: {', '.join(self.phases)}."
            )
        return self.phases[phase]

    def totals(self, phase: str, *, b: Amount, s: Amount = 1, p: Amount = 0) -> Cost:
        """FLOPs, bytes and weight bytes of a phase at a workload, counts included."""
        return sum((op.cost_at(b=b, s=s, p=p) for op in self.ops(phase)), Cost())

    def to_json(self) -> Json:
        """The `op_list` object of a report."""
        return {
            "schema": SCHEMA,
            "lowering": self.lowering,
            "phases": {phase: [op.to_json() for op in ops] for phase, ops in self.phases.items()},
        }

    @classmethod
    def from_json(cls, data: object) -> OpList:
        """The op list in a whole report or in its `op_list` object."""
        report = _object(data, "An op list")
        if "op_list" in report:
            _check_schema(report, required=True)
            report = _object(report["op_list"], "Field 'op_list'")
        _check_schema(report, required=False)
        lowering = report.get("lowering")
        if not isinstance(lowering, str) or lowering not in LOWERINGS:
            raise OpListFormatError(
                f"Field 'lowering' of the op list is {lowering!r}.",
                f"Known: {', '.join(LOWERINGS)}.",
            )
        phases = _object(report.get("phases"), "Field 'phases'")
        return cls(
            lowering=lowering, phases={name: _ops(name, ops) for name, ops in phases.items()}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One distinct layer structure of a stack: the layer kept for it, and the layers that share it."""

    stack: str
    cls: str
    representative: int
    count: int
    indices: tuple[int, ...]

    def to_json(self) -> Json:
        """An entry of `layers` in a report."""
        return {
            "stack": self.stack,
            "class": self.cls,
            "representative": self.representative,
            "count": self.count,
            "indices": list(self.indices),
        }

    @classmethod
    def from_json(cls, data: object) -> Layer:
        """The layer that `to_json` wrote."""
        entry = _object(data, "A layer")
        try:
            return cls(
                stack=str(entry["stack"]),
                cls=str(entry["class"]),
                representative=int(entry["representative"]),
                count=int(entry["count"]),
                indices=tuple(int(index) for index in entry["indices"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OpListFormatError(
                f"Cannot read the layer {entry!r}: {error!r}.",
                "It has stack, class, representative, count and indices.",
            ) from error


def read_report(path: str | Path) -> Json:
    """The JSON object in a file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OpListFormatError(f"Cannot read the op list {str(path)!r}: {error}.") from error
    try:
        return _object(json.loads(text), f"The op list {str(path)!r}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, OpListFormatError):
            raise
        raise OpListFormatError(
            f"{str(path)!r} is not JSON: {error}.", "Write it with trace-model MODEL --json."
        ) from error


def read_op_list(path: str | Path) -> OpList:
    """The op list in a file that holds a report or an `op_list` object."""
    return OpList.from_json(read_report(path))


def _ops(phase: str, data: object) -> tuple[Op, ...]:
    if phase not in PHASES:
        raise OpListFormatError(f"Unknown phase {phase!r}.", f"Known: {', '.join(PHASES)}.")
    if not isinstance(data, list):
        raise OpListFormatError(f"Phase {phase!r} is {data!r}.", "It takes a list of ops.")
    return tuple(Op.from_json(op) for op in data)


def _object(data: object, what: str) -> Json:
    if not isinstance(data, dict):
        raise OpListFormatError(f"{what} is an object, not {type(data).__name__}.")
    return data


def _check_schema(data: Json, *, required: bool) -> None:
    schema = data.get("schema")
    if (schema is None and not required) or (schema == SCHEMA and type(schema) is int):
        return
    raise OpListFormatError(
        f"The op list has schema {schema!r}.", f"This version reads schema {SCHEMA}."
    )
