"""Lending: what a sister's rows say of an op (`perfdb.sisters`), by the points that both GPUs have measured.

Her time scaled by the bounds is right but for a ratio, which changes slowly from point to point: where a kernel changes
its tiles it does so on both. Where enough points are measured on both, the ratio is estimated between them as
efficiencies are between rows (`perfdb.estimator`); where not, or where that is less certain, it is 1 within the stated
error of the kind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy

from oplib.kind import Dims, OpKind
from oplib.params import Params, ParamValue
from perfdb.arrays import Floats
from perfdb.efficiency import Group
from perfdb.estimator import Estimator, subset
from perfdb.performance import PerformanceArray, origin_rank
from perfdb.response import EXTRAPOLATED, Response
from perfdb.sisters import Scaling, power_error
from perfdb.speed_of_light import bounds_ms

if TYPE_CHECKING:
    from perfdb.database import PerfDatabase

FEWEST = 12  # points of both that say how the ratio goes


class Lender:
    """A sister's database, in mode `silicon`, beside our own."""

    def __init__(self, own: PerfDatabase, sister: PerfDatabase) -> None:
        self._own, self.sister = own, sister
        self._estimators: dict[tuple[int, int], Estimator | None] = {}  # by those of both
        self._responses: dict[tuple[str, tuple[ParamValue, ...]], Response | None] = {}

    def lend(
        self, kind: OpKind, params: Params, dims: Dims, scaling: Scaling
    ) -> PerformanceArray | None:
        """Her times of an op as ours would be; None where she has none, or of another quantisation than ours."""
        ours, there = (db.entry(kind, params, dims) for db in (self._own, self.sister))
        if there.latency is None or (there.stand_in and ours.latency is not None):
            return None
        sizes = kind.worked(there.params, dims)
        bound, other = (
            numpy.asarray(bounds_ms(kind, there.params, sizes, system)[0], dtype=numpy.float64)
            for system in (self._own.system, self.sister.system)
        )
        found = self.sister.silicon(there, dims, other)
        latency = found.latency * scaling.scale(bound, other, there.launch)
        ratio, uncertainty = self._ratio(kind, params, dims, scaling)
        fastest = numpy.where(found.ranks == EXTRAPOLATED, 1.0, there.fastest)
        latency = numpy.maximum(latency * ratio, fastest * bound)
        power = power_error(self._own.backend)  # of hers for ours; None where nobody knows
        error = numpy.sqrt(found.energy_uncertainty**2 + uncertainty**2 + (power or 0.0) ** 2)
        return PerformanceArray(
            latency,
            energy=numpy.nan if power is None else found.power * latency,
            energy_uncertainty=error,
            ranks=numpy.full(latency.shape, origin_rank("empirical"), dtype=numpy.int8),
            uncertainty=numpy.hypot(found.uncertainty, uncertainty),
        )

    def _ratio(
        self, kind: OpKind, params: Params, dims: Dims, scaling: Scaling
    ) -> tuple[Floats, Floats]:
        """Our time over hers, scaled, and its uncertainty."""
        key = (kind.name, tuple(params.values()))
        if key not in self._responses:
            self._responses[key] = self._response(kind, params, dims, scaling)
        response = self._responses[key]
        if response is None:
            return numpy.ones(()), numpy.asarray(scaling.uncertainty)
        value, deviation, _ = response.at(dims)
        own = numpy.expm1(deviation)
        less = own < scaling.uncertainty
        return numpy.where(less, numpy.exp(value), 1.0), numpy.minimum(own, scaling.uncertainty)

    def _response(
        self, kind: OpKind, params: Params, dims: Dims, scaling: Scaling
    ) -> Response | None:
        ours, hers = (db.entry(kind, params, dims) for db in (self._own, self.sister))
        if ours.latency is None or hers.latency is None:
            return None
        mine, other = ours.latency.estimator, hers.latency.estimator
        both = (id(mine), id(other))
        if both not in self._estimators:
            self._estimators[both] = ratios(mine.group, other, scaling)
        found = self._estimators[both]
        return None if found is None else Response(kind, ours.params, found)


def ratios(own: Group, there: Estimator, scaling: Scaling) -> Estimator | None:
    """Log of our times over a sister's, scaled, of the points that both have measured; None where these are few."""
    row = there.known(own.points)
    both = numpy.flatnonzero(row >= 0)
    if len(both) < FEWEST:
        return None
    hers, bounds = there.group, own.bounds[both]
    scaled = hers.rows.latency[row[both]] * scaling.scale(
        bounds, hers.bounds[row[both]], hers.launch
    )
    found = numpy.log(own.rows.latency[both] / scaled)
    return Estimator.fit(replace(subset(own, both), ratios=found))
