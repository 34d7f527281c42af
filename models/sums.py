"""Sums and choices of arrays of results, place by place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from perfdb.performance import PerformanceArray, relative

Mask = NDArray[numpy.bool_]


def no_time(shape: tuple[int, ...]) -> PerformanceArray:
    """Results that take no time."""
    return PerformanceArray(
        numpy.zeros(shape),
        energy=numpy.zeros(shape),
        ranks=numpy.zeros(shape, dtype=numpy.int8),
        uncertainty=numpy.zeros(shape),
        energy_uncertainty=numpy.zeros(shape),
    )


def only_where(runs: Mask, found: PerformanceArray) -> PerformanceArray:
    """The results where something runs; no time and the best origin elsewhere."""
    if runs.all():
        return found
    return found.each(lambda held: numpy.where(runs, held, held.dtype.type(0)))


def summed(parts: Sequence[PerformanceArray]) -> PerformanceArray:
    """Results added up, the errors of the parts as independent ones."""
    shape = numpy.broadcast_shapes(*(part.shape for part in parts))
    latency, variance, energy, energy_variance = (numpy.zeros(shape) for _ in range(4))
    ranks = numpy.zeros(shape, dtype=numpy.int8)
    for part in parts:
        latency += part.latency
        variance += numpy.square(part.latency * part.uncertainty)
        energy += part.energy
        energy_variance += numpy.square(part.energy * part.energy_uncertainty)
        numpy.maximum(ranks, part.ranks, out=ranks)
    return PerformanceArray(
        latency,
        energy=energy,
        ranks=ranks,
        uncertainty=relative(numpy.sqrt(variance), latency),
        energy_uncertainty=relative(numpy.sqrt(energy_variance), energy),
    )


def vaguer(found: PerformanceArray, error: float) -> PerformanceArray:
    """Results with a further relative error of the time, independent of theirs; energy takes part in it."""
    if not error:
        return found
    return PerformanceArray(
        found.latency,
        energy=found.energy,
        ranks=found.ranks,
        uncertainty=numpy.where(
            found.latency > 0, numpy.hypot(found.uncertainty, error), found.uncertainty
        ),
        energy_uncertainty=numpy.where(
            found.energy > 0, numpy.hypot(found.energy_uncertainty, error), 0.0
        ),
    )


def slower(one: PerformanceArray, other: PerformanceArray) -> PerformanceArray:
    chosen = one.latency >= other.latency
    return one.each(lambda held, others: numpy.where(chosen, held, others), other)
