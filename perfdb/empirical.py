"""Stated efficiencies: what an op takes where nothing was measured, read from `empirical.toml`.

latency = max(FLOPs / peak / compute, bytes / bandwidth / memory) + launch_ms, with shares of the peak and of the
bandwidth that measured kernels of the kind reach; `uncertainty` is the spread of what was measured around it. A module
takes what its parts take, by the way with the least.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from types import MappingProxyType

from oplib.arithmetic import Amount, maximum
from oplib.kind import Dims, OpKind, Part
from oplib.params import Params
from perfdb.speed_of_light import bounds_ms
from perfdb.systems import System

FILE = "empirical.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of peak and bandwidth, ms of a launch, and the relative uncertainty (one sigma) of the three together."""

    compute: float
    memory: float
    launch_ms: float
    uncertainty: float
    source: str

    def latency_ms(self, compute_ms: Amount, memory_ms: Amount) -> Amount:
        """ms of an op whose sides at peak and at full bandwidth take so long."""
        return maximum(compute_ms / self.compute, memory_ms / self.memory) + self.launch_ms


@cache
def efficiencies() -> Mapping[str, Efficiency]:
    """The stated efficiency per op kind, and `other` for the rest."""
    text = Path(__file__).with_name(FILE).read_text(encoding="utf-8")
    return MappingProxyType(
        {name: Efficiency(**entry) for name, entry in tomllib.loads(text).items()}
    )


def efficiency_of(kind: OpKind) -> Efficiency:
    """That of a kind; of `other` where none is stated."""
    stated = efficiencies()
    return stated.get(kind.name, stated["other"])


def stated_ms(kind: OpKind, params: Params, dims: Dims, system: System) -> tuple[Amount, Amount]:
    """ms of an op by the stated efficiency of its kind, and its relative uncertainty."""
    if ways := kind.ways(params, dims):
        return reduce(_lesser, (_way_ms(way, system) for way in ways))
    _, compute, memory = bounds_ms(kind, params, dims, system)
    stated = efficiency_of(kind)
    return stated.latency_ms(compute, memory), stated.uncertainty


def _way_ms(way: tuple[Part, ...], system: System) -> tuple[Amount, Amount]:
    """The sum over the parts, which err apart from each other."""
    total, variance = 0.0, 0.0
    for one in way:
        ms, uncertainty = stated_ms(one.kind, one.params, one.dims, system)
        total = total + ms * one.times
        variance = variance + (ms * one.times * uncertainty) ** 2
    return total, variance**0.5 / total


def _lesser(one: tuple[Amount, Amount], other: tuple[Amount, Amount]) -> tuple[Amount, Amount]:
    import numpy

    first = numpy.less_equal(one[0], other[0])
    return numpy.where(first, one[0], other[0]), numpy.where(first, one[1], other[1])
