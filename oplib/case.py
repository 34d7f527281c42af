"""Case: one point to measure, an op kind at given parameters and sizes; Plan: the cases that a model needs.

The file is JSON lines, one object each: the plan's header, then its cases. docs/cases.md describes it field by field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oplib.errors import InvalidInputError
from oplib.kind import OpKind
from oplib.params import ParamValue
from oplib.registry import kind

SCHEMA = 1

Json = dict[str, Any]  # Any: an object decoded from JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One occurrence of an op to measure.

    `params` may leave defaults out and are completed here; `dims` are whole numbers, at least 0. `bound_ms` is the
    speed of light on the plan's system, `bytes` what an occurrence moves. `reason` says what the tables lack,
    `needed_by` which ops of the model run it, as `<phase> <layer> <name>`.
    """

    op: str
    params: Mapping[str, ParamValue]
    dims: Mapping[str, int]
    bound_ms: float = 0.0
    bytes: int = 0
    reason: str = ""
    needed_by: tuple[str, ...] = ()
    kind: OpKind = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        op_kind = kind(self.op)
        for name, size in self.dims.items():
            if type(size) is not int or size < 0:
                raise InvalidInputError(
                    f"Dim {name} of a case of {self.op} is {size!r}.", "It is a whole number."
                )
        object.__setattr__(self, "params", op_kind.validate(self.params, self.dims))
        object.__setattr__(self, "kind", op_kind)

    @property
    def case_id(self) -> str:
        """16 hexadecimal digits that follow from op, params and dims alone, in any program and at any time.

        A parameter at its default is left out, so that a parameter that a kind gains later changes no id.
        """
        defaults = {param.name: param.default for param in self.kind.params}
        said = {n: v for n, v in self.params.items() if n not in defaults or defaults[n] != v}
        whole = json.dumps([self.op, said, dict(self.dims)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def to_json(self) -> Json:
        """A line of a plan."""
        return {
            "case_id": self.case_id,
            "op": self.op,
            "params": dict(self.params),
            "dims": dict(self.dims),
            "bound_ms": self.bound_ms,
            "bytes": self.bytes,
            "reason": self.reason,
            "needed_by": list(self.needed_by),
        }

    @classmethod
    def from_json(cls, data: object) -> Case:
        """The case that `to_json` wrote; one whose `case_id` is not that of its contents is refused."""
        entry = _object(data, "A case")
        found = cls(
            op=_typed(entry, "op", str),
            params=_typed(entry, "params", dict),
            dims=_typed(entry, "dims", dict),
            bound_ms=float(_typed(entry, "bound_ms", (int, float), 0.0)),
            bytes=_typed(entry, "bytes", int, 0),
            reason=_typed(entry, "reason", str, ""),
            needed_by=tuple(map(str, _typed(entry, "needed_by", list, []))),
        )
        if (stated := entry.get("case_id", found.case_id)) != found.case_id:
            raise InvalidInputError(
                f"A case of {found.op} is called {stated!r}, its contents are {found.case_id}.",
                "Leave case_id out, or write the plan again with trace-model MODEL --cases FILE.",
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cases to measure on one system with one backend, so that a model's op list is covered."""

    system: str
    backend: str
    version: str
    model: str
    cases: tuple[Case, ...]

    def to_text(self) -> str:
        """The whole file."""
        header = {
            "schema": SCHEMA,
            "system": self.system,
            "backend": self.backend,
            "version": self.version,
            "model": self.model,
            "cases": len(self.cases),
            "bound_ms": sum(case.bound_ms for case in self.cases),
        }
        lines = (header, *(case.to_json() for case in self.cases))
        return "".join(json.dumps(line) + "\n" for line in lines)

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """The plan in the text of a file; InvalidInputError names the line that cannot be read."""
        lines = [line for line in text.splitlines() if line.strip()]
        header = _line(lines[0], 1) if lines else {}
        if header.get("schema") != SCHEMA or type(header["schema"]) is not int:
            raise InvalidInputError(
                f"A plan starts with its header, and its schema is {header.get('schema')!r}.",
                f"This version reads schema {SCHEMA}.",
            )
        count = _typed(header, "cases", int)
        if count != len(lines) - 1:
            raise InvalidInputError(
                f"The plan states {count} cases and has {len(lines) - 1}.",
                "A part of the file is missing; write it again.",
            )
        return cls(
            cases=tuple(_cases(lines[1:])),
            **{
                name: _typed(header, name, str)
                for name in ("system", "backend", "version", "model")
            },
        )


def read_plan(path: str | Path) -> Plan:
    """The plan in a file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Cannot read the plan {str(path)!r}: {error}.") from error
    try:
        return Plan.from_text(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"{str(path)!r}: {error.message}", error.hint) from error


def _cases(lines: Iterable[str]) -> Iterable[Case]:
    for number, line in enumerate(lines, 2):
        try:
            yield Case.from_json(_line(line, number))
        except InvalidInputError as error:
            raise InvalidInputError(f"Line {number}: {error.message}", error.hint) from error


def _line(text: str, number: int) -> Json:
    try:
        return _object(json.loads(text), f"Line {number}")
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInputError(
            f"Line {number} is not JSON: {error}.", "A plan has one object in each line."
        ) from error


def _object(data: object, what: str) -> Json:
    if not isinstance(data, dict):
        raise InvalidInputError(f"{what} is an object, not {type(data).__name__}.")
    return data


def _typed(data: Json, key: str, types: Any, default: Any = None) -> Any:  # Any: decoded JSON
    value = data.get(key, default)
    if not isinstance(value, types) or isinstance(value, bool):
        raise InvalidInputError(f"Field {key!r} is {value!r}.", "See docs/cases.md.")
    return value
