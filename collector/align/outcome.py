"""What came of one sub-module at one workload: each op predicted, alone and inside, and what the whole took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from collector.align.kernels import Compared, Kernel

Json = dict[str, Any]  # Any: an object that becomes JSON
LIMIT = 0.10  # the gap that a sub-module may have


@dataclass(frozen=True, slots=True, kw_only=True)
class OpOutcome:
    """All occurrences of an op within one call of the sub-module, in ms; None where there is no such number.

    `measured` is the time of its kernels inside the running sub-module, where they could be told.
    """

    op: str
    name: str
    count: int
    variant: str
    predicted: float | None
    origin: str
    standalone: float | None
    measured: float | None
    reason: str = ""

    def to_json(self) -> Json:
        """A line of `ops`."""
        return {
            "op": self.op, "name": self.name, "count": self.count, "variant": self.variant, "origin": self.origin,
            **_times(self.predicted, self.standalone, self.measured), "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One row of the result, times in ms of a call. `predicted` is the price of the sub-module, `measured` its time
    under load, `rested` the one at rest, as its ops alone are timed."""

    model: str
    submodule: str
    role: str
    phase: str
    workload: str
    ops: tuple[OpOutcome, ...]
    predicted: float | None = None
    measured: float | None = None
    rested: float | None = None
    rested_spread: float | None = None
    graph: bool = False
    note: str = ""
    difference: float | None = None
    compared: Compared | None = None
    kernels: tuple[Kernel, ...] = ()
    timing: Json | None = None
    failed: str = ""

    @property
    def standalone(self) -> float | None:
        """The sum of the ops on their own; None where one has no kernel."""
        return total(op.standalone for op in self.ops)

    @property
    def gap(self) -> float | None:
        """By how much the price is over the measured time."""
        return _gap(self.predicted, self.measured)

    def to_json(self) -> Json:
        """An object of the list that `--json` prints."""
        return {
            "model": self.model, "submodule": self.submodule, "role": self.role, "phase": self.phase,
            "workload": self.workload, **_times(self.predicted, self.standalone, self.measured),
            "rested_ms": self.rested, "rested_spread": self.rested_spread,
            "standalone_gap": _gap(self.standalone, self.rested), "graph": self.graph,
            "note": self.note,
            "kernels_match": self.compared.match if self.compared else None,
            "kernels_differ": self.compared.to_json() if self.compared else None,
            "difference": self.difference, "ops": [op.to_json() for op in self.ops],
            "kernels": [kernel.to_json() for kernel in self.kernels], "timing": self.timing, "failed": self.failed,
        }  # fmt: skip


def total(values: Iterable[float | None]) -> float | None:
    """The sum of times; None where one is not known, or where there is none."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None


def _times(predicted: float | None, standalone: float | None, measured: float | None) -> Json:
    gap = _gap(predicted, measured)
    return {
        "predicted_ms": predicted, "standalone_ms": standalone, "measured_ms": measured, "gap": gap,
        "ok": None if gap is None else abs(gap) < LIMIT,
    }  # fmt: skip


def _gap(predicted: float | None, measured: float | None) -> float | None:
    return predicted / measured - 1 if predicted is not None and measured else None
