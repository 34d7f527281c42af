"""Estimate a quantity between and beyond scattered points, with its uncertainty: local ordinary kriging.

The covariance of two points is a sum of products over coordinates. A component with a short length in one coordinate
and long ones elsewhere says what tiles and waves do to a GPU: a step at one m and n that every k shares.

Letters: n points, q queries, d coordinates, j neighbours of a query.
Source: Cressie, Statistics for Spatial Data, 1993, section 3.2 (ordinary kriging); Dubrule, Cross validation of kriging
in a unique neighborhood, 1983, https://doi.org/10.1007/BF01033232 (the residual of each point left out, from one
inverse).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy

from perfdb.arrays import Floats, Ints
from perfdb.nearest import Nearest

_BATCH = 1024  # queries whose systems are solved at once: about 100 MB at 40 neighbours
_SHORTEST, _LONGEST = (
    0.05,
    50.0,
)  # lengths by which neighbours are searched, in the units of the coordinates
_PRIOR_POINTS = 4.0  # residuals' worth of belief in the table's own scale
_LARGEST_Z = 4.0  # residuals further out tell no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One part of the covariance: its standard deviation, and per coordinate the distance over which it fades.

    `smooth` is Matérn 3/2 in the joint distance; else the product of exponentials, continuous but rough.
    """

    deviation: float
    lengths: tuple[float, ...]
    smooth: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariance:
    """What points of one table tell about each other; `noise` is the deviation of a repeated measurement."""

    components: tuple[Component, ...]
    noise: float

    @property
    def variance(self) -> float:
        """Prior variance at one place."""
        return sum(part.deviation**2 for part in self.components)

    def __call__(self, first: Floats, second: Floats) -> Floats:
        """Covariances [..., i, j] of points first [..., i, d] and second [..., j, d]."""
        apart = numpy.abs(first[..., :, None, :] - second[..., None, :, :])
        total = numpy.zeros(apart.shape[:-1])
        for part in self.components:
            scaled = apart / numpy.array(part.lengths)
            if part.smooth:
                far = numpy.sqrt(3 * numpy.square(scaled).sum(-1))
                total += part.deviation**2 * (1 + far) * numpy.exp(-far)
            else:
                total += part.deviation**2 * numpy.exp(-scaled.sum(-1))
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Value and one standard deviation per query [q]."""

    value: Floats
    deviation: Floats


class Field:
    """Known values at scattered points, and estimates elsewhere."""

    def __init__(
        self, points: Floats, values: Floats, covariance: Covariance, *, neighbours: int = 40
    ) -> None:
        """`points` [n, d] and `values` [n]; an estimate uses those `neighbours` points that tell most."""
        self.points, self.values, self.covariance = points, values, covariance
        self.neighbours = min(neighbours, len(points))
        self._nearest = []
        for part in covariance.components:
            scale = 1 / numpy.clip(part.lengths, _SHORTEST, _LONGEST)
            self._nearest.append((scale, Nearest(points * scale)))

    def estimate(self, queries: Floats) -> Estimate:
        """Estimates at `queries` [q, d]."""
        return join(
            self._solve(part, self.choose(part, wide=2 * self.neighbours))
            for part in numpy.array_split(queries, -(-len(queries) // _BATCH))
        )

    def leave_out(self, asked: Ints, groups: Ints) -> Estimate:
        """Estimates at the known points `asked`, as if no point of its own group, `groups` [n], were known."""
        return join(
            self._solve(
                self.points[part],
                self.choose(self.points[part], 5 * self.neighbours, groups, part),
            )
            for part in numpy.array_split(asked, -(-len(asked) // _BATCH))
        )

    def choose(
        self, queries: Floats, wide: int, groups: Ints | None = None, own: Ints | None = None
    ) -> Ints:
        """The points [q, j] that tell most about each query, out of the `wide` nearest under each component."""
        wide = min(wide, len(self.points))
        found = [nearest.query(queries * scale, wide) for scale, nearest in self._nearest]
        near = numpy.sort(numpy.concatenate(found, axis=1), axis=1)
        usable = numpy.ones(near.shape, dtype=bool)
        usable[:, 1:] = near[:, 1:] != near[:, :-1]
        if groups is not None:
            usable &= groups[near] != groups[own][:, None]
        told = self.covariance(queries[:, None, :], self.points[near])[:, 0, :]
        told[~usable] = -1.0
        kept = min(self.neighbours, int(usable.sum(axis=1).min()))
        best = numpy.argpartition(-told, kept - 1, axis=1)[:, :kept]
        return numpy.take_along_axis(near, best, axis=1)

    def _solve(self, queries: Floats, near: Ints) -> Estimate:
        """Ordinary kriging of each query from its neighbours `near` [q, j].

        The deviation is the model's own, scaled by how large the residuals of these neighbours are, each left out
        in turn, next to what the model expects of them.
        """
        known, values, count = self.points[near], self.values[near], near.shape[1]
        system = numpy.ones((len(queries), count + 1, count + 1))
        system[:, :count, :count] = self.covariance(known, known)
        system[:, :count, :count] += self.covariance.noise**2 * numpy.eye(count)
        system[:, count, count] = 0.0
        told = self.covariance(queries[:, None, :], known)[:, 0, :]
        right = numpy.concatenate([told, numpy.ones((len(queries), 1))], axis=1)
        inverse = numpy.linalg.inv(system)
        weights = numpy.einsum("qij,qj->qi", inverse, right)
        variance = self.covariance.variance - (weights * right).sum(axis=1)
        variance = numpy.maximum(variance, 0.0) + self.covariance.noise**2

        diagonal = numpy.einsum("qii->qi", inverse)[:, :count]
        left_out = numpy.einsum("qij,qj->qi", inverse[:, :count, :count], values)
        residuals = numpy.divide(  # a lone neighbour, left out, leaves nothing to compare with
            left_out, diagonal, out=numpy.zeros_like(left_out), where=diagonal > 0
        )
        surprise = numpy.minimum(numpy.square(residuals) * diagonal, _LARGEST_Z**2)
        trust = numpy.square(told / told.max(axis=1, keepdims=True))
        scale = (_PRIOR_POINTS + (trust * surprise).sum(axis=1)) / (
            _PRIOR_POINTS + trust.sum(axis=1)
        )
        return Estimate(
            value=(weights[:, :count] * values).sum(axis=1),
            deviation=numpy.sqrt(variance * scale),
        )


def join(parts: Iterable[Estimate]) -> Estimate:
    """Estimates one after the other as one."""
    found = list(parts)
    return Estimate(
        value=numpy.concatenate([part.value for part in found]),
        deviation=numpy.concatenate([part.deviation for part in found]),
    )
