"""Sisters: GPUs of the same chip with another memory. Where a table lacks an op, the table of a sister says it.

    latency = latency there · ((bound + launch) / (bound there + launch)) ^ elasticity

The elasticity is 1 for kernels that wait for memory, 0 for those that wait for anything else, and between them for a
kind whose kernels do both. `sisters.toml` states it by kind and backend, and by phase where a kind has them, with the
error (one sigma) that it left at points measured on both. Her power is taken as it is, within an error that is stated
by backend.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import isclose
from pathlib import Path
from types import MappingProxyType

from oplib.kind import OpKind
from oplib.params import Params
from perfdb.arrays import Floats
from perfdb.empirical import entries, names_of
from perfdb.systems import System, list_systems, load_system

FILE = "sisters.toml"
_ROUNDING = 0.005  # of a stated peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How times follow the bound from sister to sister; `uncertainty` is relative, one sigma."""

    elasticity: float
    uncertainty: float
    source: str

    def scale(self, bound: Floats, there: Floats, launch: float) -> Floats:
        """What a time of the sister is multiplied with; bounds and launch in ms."""
        return ((bound + launch) / (there + launch)) ** self.elasticity


def sisters_of(system: System) -> Iterator[System]:
    """Systems with the same peaks, but for how their vendor rounds them, and as many multiprocessors."""
    for name in list_systems():
        other = load_system(name)
        same = other.peak.keys() == system.peak.keys() and all(
            isclose(other.peak[dtype].base, peak.base, rel_tol=_ROUNDING)
            for dtype, peak in system.peak.items()
        )
        if name != system.id and same and other.num_sms.base == system.num_sms.base:
            yield other


@cache
def scalings() -> Mapping[str, Scaling]:
    """The stated scalings by the names of their tables: kind.backend, kind.backend.phase, other.backend."""
    file = Path(__file__).with_name(FILE).read_text(encoding="utf-8")
    found = entries(tomllib.loads(file))
    return MappingProxyType({".".join(names): Scaling(**entry) for names, entry in found.items()})


def power_error(backend: str) -> float | None:
    """How far power, of the same op on both, is apart (relative, one sigma); None where it is not stated."""
    stated = scalings().get(f"power.{backend}")
    return None if stated is None else stated.uncertainty


def scaling_of(kind: OpKind, params: Params, backend: str) -> Scaling | None:
    """The most particular one that is stated of a kind on a backend; None where nothing is of the backend."""
    stated, names = scalings(), (*names_of(kind, params, backend), f"other.{backend}")
    return next((stated[name] for name in names if name in stated), None)
