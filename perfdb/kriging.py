"""Estimate a quantity between and beyond scattered points, with its uncertainty: local ordinary kriging.

The covariance of two points is a sum of products over coordinates. A component with a short length in one coordinate
and long ones elsewhere says what tiles and waves do to a GPU: a step at one m and n that every k shares.

Letters: n points, q queries, d coordinates, j neighbours of a query.
Source: Cressie, Statistics for Spatial Data, 1993, section 3.2 (ordinary kriging); Dubrule, Cross validation of kriging
in a unique neighborhood, 1983, https://doi.org/10.1007/BF01033232 (the residual of each point left out, from one
inverse).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from perfdb.arrays import Floats, Ints
from perfdb.nearest import Nearest

Mask: TypeAlias = NDArray[numpy.bool_]

_BATCH = 128  # queries whose systems are solved at once: what the processor's cache holds
_SHORTEST, _LONGEST = (
    0.05,
    50.0,
)  # lengths by which neighbours are searched, in the units of the coordinates
_CUTS = 6  # outliers of 40 neighbours at most
_LEAST_PRECISION = 1e-12  # 1 / variance; a lone neighbour has none
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
    """What points of one table tell about each other; `noise` is the deviation of a repeated measurement. A value
    further than `limit` deviations from what its neighbours say counts as at that limit."""

    components: tuple[Component, ...]
    noise: float
    limit: float = math.inf

    @property
    def variance(self) -> float:
        """Prior variance at one place."""
        return sum(part.deviation**2 for part in self.components)

    def __call__(self, first: Floats, second: Floats) -> Floats:
        """Covariances [..., i, j] of points first [..., i, d] and second [..., j, d].

        In single precision, whose error is far below any noise and which is ten times as fast.
        """
        apart = (
            first.astype(numpy.float32)[..., :, None, :]
            - second.astype(numpy.float32)[..., None, :, :]
        )
        numpy.abs(apart, out=apart)
        flat = apart.reshape(-1, apart.shape[-1])
        total = numpy.zeros(len(flat), dtype=numpy.float32)
        rough = [part for part in self.components if not part.smooth]
        if rough:
            weights = 1 / numpy.array([part.lengths for part in rough], dtype=numpy.float32).T
            variances = numpy.array([part.deviation**2 for part in rough], dtype=numpy.float32)
            total += numpy.exp(-(flat @ weights)) @ variances
        for part in self.components:
            if part.smooth:
                weights = 3 / numpy.square(numpy.array(part.lengths, dtype=numpy.float32))
                far = numpy.sqrt(numpy.square(flat) @ weights)
                total += numpy.float32(part.deviation**2) * (1 + far) * numpy.exp(-far)
        return total.reshape(apart.shape[:-1]).astype(numpy.float64)


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
        self._nearest: list[tuple[Floats, Nearest]] = []

    def estimate(self, queries: Floats) -> Estimate:
        """Estimates at `queries` [q, d]."""
        return join(
            self._solve(part, self._best(part, self._near(part, self.neighbours)))
            for part in numpy.array_split(queries, max(-(-len(queries) // _BATCH), 1))
        )

    def leave_out(self, asked: Ints, groups: Ints, near: Ints | None = None) -> Estimate:
        """Estimates at the known points `asked`, as if no point of its own group, `groups` [n], were known.

        `near` [q, w] are points to use, as `around` finds them, else all.
        """
        if near is None:
            near = self.around(asked, groups)
        parts = numpy.array_split(numpy.arange(len(asked)), max(-(-len(asked) // _BATCH), 1))
        return join(
            self._solve(
                self.points[asked[part]],
                self._best(
                    self.points[asked[part]],
                    near[part],
                    groups[near[part]] != groups[asked[part]][:, None],
                ),
            )
            for part in parts
        )

    def told_by(self, asked: Ints, groups: Ints) -> Ints:
        """The points [q, j] outside its own group that tell most about each known point `asked`."""
        near = self.around(asked, groups)
        allowed = groups[near] != groups[asked][:, None]
        return self._best(self.points[asked], near, allowed)

    def around(self, asked: Ints, groups: Ints) -> Ints:
        """Points [q, w] near each known point `asked`, enough of them outside its own group."""
        own = numpy.unique(groups, return_counts=True)[1].max()
        wide = self.neighbours + min(int(own), 4 * self.neighbours)
        return self._near(self.points[asked], wide)

    def _near(self, queries: Floats, wide: int) -> Ints:
        """The `wide` nearest points under each component [q, components · wide], sorted."""
        if not self._nearest:
            for part in self.covariance.components:
                scale = 1 / numpy.clip(part.lengths, _SHORTEST, _LONGEST)
                self._nearest.append((scale, Nearest(self.points * scale)))
        wide = min(wide, len(self.points))
        found = [nearest.query(queries * scale, wide) for scale, nearest in self._nearest]
        return numpy.sort(numpy.concatenate(found, axis=1), axis=1)

    def _best(self, queries: Floats, near: Ints, allowed: Mask | None = None) -> Ints:
        """Those of the points `near` [q, w] that tell most about each query [q, j]."""
        usable = numpy.ones(near.shape, dtype=bool)
        usable[:, 1:] = near[:, 1:] != near[:, :-1]
        if allowed is not None:
            usable &= allowed
        told = self.covariance(queries[:, None, :], self.points[near])[:, 0, :]
        told[~usable] = -1.0
        kept = min(self.neighbours, int(usable.sum(axis=1).min()))
        best = numpy.argpartition(-told, kept - 1, axis=1)[:, :kept]
        return numpy.take_along_axis(near, best, axis=1)

    def _solve(self, queries: Floats, near: Ints) -> Estimate:
        """Ordinary kriging of each query from its neighbours `near` [q, j].

        The deviation is the model's own, scaled by how large the residuals of these neighbours are, each left out
        in turn, next to what the model expects of them. The same residuals tell which of them are outliers.
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
        if self.covariance.limit < math.inf:
            values, left_out = _cut(values, left_out, inverse, diagonal, self.covariance.limit)
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


def _cut(
    values: Floats, left_out: Floats, inverse: Floats, diagonal: Floats, limit: float
) -> tuple[Floats, Floats]:
    """`values` [q, j] with outliers at `limit` deviations from the others, and `left_out` [q, j] of these.

    The worst of each query first and one at a time, because it makes its own neighbours look like outliers.
    """
    each = numpy.arange(len(values))
    precision = numpy.maximum(diagonal, _LEAST_PRECISION)
    for _ in range(_CUTS):
        z = left_out / numpy.sqrt(precision)
        worst = numpy.abs(z).argmax(axis=1)
        most = z[each, worst]
        change = (numpy.clip(most, -limit, limit) - most) / numpy.sqrt(precision[each, worst])
        values = values.copy()
        values[each, worst] += change
        columns = inverse[each, : values.shape[1], worst]
        left_out = left_out + columns * change[:, None]
    return values, left_out


def join(parts: Iterable[Estimate]) -> Estimate:
    """Estimates one after the other as one."""
    found = list(parts)
    return Estimate(
        value=numpy.concatenate([part.value for part in found]),
        deviation=numpy.concatenate([part.deviation for part in found]),
    )
