"""Stated efficiencies: what an op takes where nothing was measured, read from `empirical.toml`.

latency = max(FLOPs / peak / compute, bytes / bandwidth / memory) + launch_ms, with shares of the peak and of the
bandwidth that measured kernels of the kind reach; `uncertainty` is the spread of what was measured around it. A module
takes what its parts take, by the way with the least.

A kind has one entry for all backends, and beside it `[kind.backend]` or `[kind.backend.phase]` where kernels of a
backend are far from it: the most particular one there is counts.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

from oplib.arithmetic import Amount, maximum
from oplib.kind import Dims, OpKind, Part
from oplib.params import Params, text
from perfdb.speed_of_light import bounds_ms
from perfdb.systems import System

FILE = "empirical.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of peak and bandwidth, ms of a launch, and the relative uncertainty (one sigma) of the three together.

    `backend` is the one whose kernels alone it describes: shares of the bound of what these work through
    (`OpKind.worked`). That of a whole kind ("") is in shares of the bound of the sizes asked.
    """

    compute: float
    memory: float
    launch_ms: float
    uncertainty: float
    source: str
    backend: str = ""

    def latency_ms(self, compute_ms: Amount, memory_ms: Amount) -> Amount:
        """ms of an op whose sides at peak and at full bandwidth take so long."""
        return maximum(compute_ms / self.compute, memory_ms / self.memory) + self.launch_ms


@cache
def efficiencies() -> Mapping[str, Efficiency]:
    """The stated efficiencies by the names of their tables: a kind, kind.backend, kind.backend.phase; `other` for the
    rest."""
    file = Path(__file__).with_name(FILE).read_text(encoding="utf-8")
    return MappingProxyType(
        {
            ".".join(names): Efficiency(**entry, backend=names[1] if names[1:] else "")
            for names, entry in entries(tomllib.loads(file)).items()
        }
    )


def entries(tables: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:  # Any: of TOML
    """The values of each table and of the tables within it, by the names that lead there."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, table in tables.items():
        values = {key: value for key, value in table.items() if not isinstance(value, dict)}
        inner = {key: value for key, value in table.items() if isinstance(value, dict)}
        if values:
            found[(name,)] = values
        found |= {(name, *names): entry for names, entry in entries(inner).items()}
    return found


def names_of(kind: OpKind, params: Params | None, backend: str) -> list[str]:
    """What may be stated of a kind on a backend, in the phase that its parameters say: the most particular first."""
    names = [kind.name, *filter(None, [backend])]
    if backend and params and "phase" in params:
        names.append(text(params, "phase"))
    return [".".join(names[:count]) for count in range(len(names), 0, -1)]


def efficiency_of(kind: OpKind, params: Params | None = None, backend: str = "") -> Efficiency:
    """The most particular one that is stated of a kind on a backend; else that of `other`."""
    stated = efficiencies()
    return next(stated[n] for n in (*names_of(kind, params, backend), "other") if n in stated)


def stated_ms(
    kind: OpKind, params: Params, dims: Dims, system: System, *, backend: str = ""
) -> tuple[Amount, Amount]:
    """ms of an op by its stated efficiency on a backend, and its relative uncertainty."""
    if ways := kind.ways(params, dims):
        return reduce(_lesser, (_way_ms(way, system, backend) for way in ways))
    stated = efficiency_of(kind, params, backend)
    sizes = kind.worked(params, dims) if stated.backend else dims
    _, compute, memory = bounds_ms(kind, params, sizes, system)
    return stated.latency_ms(compute, memory), stated.uncertainty


def _way_ms(way: tuple[Part, ...], system: System, backend: str) -> tuple[Amount, Amount]:
    """The sum over the parts, which err apart from each other."""
    total, variance = 0.0, 0.0
    for one in way:
        ms, uncertainty = stated_ms(one.kind, one.params, one.dims, system, backend=backend)
        total = total + ms * one.times
        variance = variance + (ms * one.times * uncertainty) ** 2
    return total, variance**0.5 / total


def _lesser(one: tuple[Amount, Amount], other: tuple[Amount, Amount]) -> tuple[Amount, Amount]:
    import numpy

    first = numpy.less_equal(one[0], other[0])
    return numpy.where(first, one[0], other[0]), numpy.where(first, one[1], other[1])
