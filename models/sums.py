"""Sums and choices of arrays of results, place by place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from perfdb.performance import PerformanceArray

Mask = NDArray[numpy.bool_]


def no_time(shape: tuple[int, ...]) -> PerformanceArray:
    """Results that take no time."""
    return PerformanceArray(
        numpy.zeros(shape),
        energy=numpy.zeros(shape),
        ranks=numpy.zeros(shape, dtype=numpy.int8),
        uncertainty=numpy.zeros(shape),
    )


def only_where(runs: Mask, found: PerformanceArray) -> PerformanceArray:
    """The results where something runs; no time and the best origin elsewhere."""
    if runs.all():
        return found
    return PerformanceArray(
        numpy.where(runs, found.latency, 0.0),
        energy=numpy.where(runs, found.energy, 0.0),
        ranks=numpy.where(runs, found.ranks, 0).astype(numpy.int8),
        uncertainty=numpy.where(runs, found.uncertainty, 0.0),
    )


def summed(parts: Sequence[PerformanceArray]) -> PerformanceArray:
    """Results added up, the errors of the parts as independent ones."""
    shape = numpy.broadcast_shapes(*(part.shape for part in parts))
    latency, variance, energy = (numpy.zeros(shape) for _ in range(3))
    ranks = numpy.zeros(shape, dtype=numpy.int8)
    for part in parts:
        latency += part.latency
        variance += numpy.square(part.latency * part.uncertainty)
        energy += part.energy
        numpy.maximum(ranks, part.ranks, out=ranks)
    relative = numpy.divide(
        numpy.sqrt(variance), latency, out=numpy.zeros(shape), where=latency > 0
    )
    return PerformanceArray(latency, energy=energy, ranks=ranks, uncertainty=relative)


def vaguer(found: PerformanceArray, error: float) -> PerformanceArray:
    """Results with a further relative error, independent of theirs."""
    if not error:
        return found
    return PerformanceArray(
        found.latency,
        energy=found.energy,
        ranks=found.ranks,
        uncertainty=numpy.where(
            found.latency > 0, numpy.hypot(found.uncertainty, error), found.uncertainty
        ),
    )


def slower(one: PerformanceArray, other: PerformanceArray) -> PerformanceArray:
    chosen = one.latency >= other.latency
    return PerformanceArray(
        numpy.where(chosen, one.latency, other.latency),
        energy=numpy.where(chosen, one.energy, other.energy),
        ranks=numpy.where(chosen, one.ranks, other.ranks),
        uncertainty=numpy.where(chosen, one.uncertainty, other.uncertainty),
    )
