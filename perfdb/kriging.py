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
_REWEIGHTINGS = 5  # after which weights hardly move
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
    """What points of one table tell about each other. `noise` is the deviation of a repeated measurement, `skew` times
    as large above as it is on average and as much smaller below; it has the tails of Student's t with `freedom`, so
    that a value far from what its neighbours say hardly counts."""

    components: tuple[Component, ...]
    noise: float
    skew: float = 1.0
    freedom: float = math.inf

    @property
    def variance(self) -> float:
        """Prior variance at one place."""
        return sum(part.deviation**2 for part in self.components)

    @property
    def noise_variances(self) -> tuple[float, float]:
        """Variance of the noise of values above the field, and of those below."""
        return (self.noise * self.skew) ** 2, (self.noise / self.skew) ** 2

    def __call__(self, first: Floats, second: Floats) -> Floats:
        """Covariances [..., i, j] of points first [..., i, d] and second [..., j, d].

        In single precision, whose error is far below any noise and which is ten times as fast.
        """
        near, far = first.astype(numpy.float32), second.astype(numpy.float32)
        return self._apart(near[..., :, None, :] - far[..., None, :, :])

    def among(self, points: Floats) -> Floats:
        """Covariances [..., i, i] of points [..., i, d] with each other: half as many as there are pairs."""
        count = points.shape[-2]
        one, other = numpy.triu_indices(count, 1)
        single = points.astype(numpy.float32)
        found = numpy.full((*points.shape[:-1], count), self.variance)
        found[..., one, other] = self._apart(single[..., one, :] - single[..., other, :])
        found[..., other, one] = found[..., one, other]
        return found

    @numpy.errstate(invalid="ignore")  # BLAS also works on what lies beyond small arrays
    def _apart(self, apart: NDArray[numpy.float32]) -> Floats:
        """Covariances [...] of points that are `apart` [..., d]."""
        flat = numpy.abs(apart, out=apart).reshape(-1, apart.shape[-1])
        total = numpy.zeros(len(flat), dtype=numpy.float32)
        rough = [part for part in self.components if not part.smooth]
        if rough:
            weights = -1 / numpy.array([part.lengths for part in rough], dtype=numpy.float32).T
            variances = numpy.array([part.deviation**2 for part in rough], dtype=numpy.float32)
            fading = flat @ weights
            total += numpy.exp(fading, out=fading) @ variances
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

    @property
    def extent(self) -> tuple[Floats, Floats]:
        """The least and the largest of each coordinate [d] of the points."""
        columns = self.points.T  # each on its own takes a tenth of all at once
        return numpy.array([c.min() for c in columns]), numpy.array([c.max() for c in columns])

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
        in turn, next to what the model expects of them.
        """
        known, values, count = self.points[near], self.values[near], near.shape[1]
        system = numpy.ones((len(queries), count + 1, count + 1))
        system[:, :count, :count] = self.covariance.among(known)
        system[:, count, count] = 0.0
        told = self.covariance(queries[:, None, :], known)[:, 0, :]
        right = numpy.concatenate([told, numpy.ones((len(queries), 1))], axis=1)
        noise = self._noise(system, values)
        numpy.einsum("qii->qi", system)[:, :count] += noise
        inverse = numpy.linalg.inv(system)
        weights = numpy.einsum("qij,qj->qi", inverse, right)
        usual = self.covariance.noise**2
        variance = self.covariance.variance - (weights * right).sum(axis=1)
        variance = numpy.maximum(variance, 0.0) + usual

        diagonal = numpy.einsum("qii->qi", inverse)[:, :count]
        left_out = numpy.einsum("qij,qj->qi", inverse[:, :count, :count], values)
        alone = diagonal <= 0  # a lone neighbour, left out, leaves nothing to compare with
        expected = 1 / numpy.where(alone, 1.0, diagonal)  # variance of each, left out
        residuals = numpy.where(alone, 0.0, left_out * expected)
        surprise = numpy.square(residuals) / numpy.maximum(expected - noise + usual, usual)
        trust = numpy.square(told / told.max(axis=1, keepdims=True))
        scale = (_PRIOR_POINTS + (trust * numpy.minimum(surprise, _LARGEST_Z**2)).sum(axis=1)) / (
            _PRIOR_POINTS + trust.sum(axis=1)
        )
        return Estimate(
            value=(weights[:, :count] * values).sum(axis=1),
            deviation=numpy.sqrt(variance * scale),
        )

    def _noise(self, system: Floats, values: Floats) -> Floats:
        """Variance of the noise of each of `values` [q, j], the larger the further it is from what the others say.

        The most likely field under noise of Student's t, by reweighting; `system` [q, j + 1, j + 1] has no noise yet.
        """
        above, below = self.covariance.noise_variances
        free = self.covariance.freedom
        noise = numpy.full(values.shape, self.covariance.noise**2)
        if math.isinf(free):
            return noise
        system, plain = system.copy(), numpy.einsum("qii->qi", system)[:, :-1].copy()
        right = numpy.concatenate([values, numpy.zeros((len(values), 1))], axis=1)[:, :, None]
        for _ in range(_REWEIGHTINGS):
            numpy.einsum("qii->qi", system)[:, :-1] = plain + noise
            off = noise * numpy.linalg.solve(system, right)[:, :-1, 0]
            side = numpy.where(off > 0, above, below)
            noise = (free * side + numpy.square(off)) / (free + 1)
        return noise


def join(parts: Iterable[Estimate]) -> Estimate:
    """Estimates one after the other as one."""
    found = list(parts)
    return Estimate(
        value=numpy.concatenate([part.value for part in found]),
        deviation=numpy.concatenate([part.deviation for part in found]),
    )
