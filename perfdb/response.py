"""Response: the efficiency of one op over its workload, estimated once per knot and read off between knots.

An estimate solves a system of equations; a sweep asks for millions. So each dim of an op has knots, every value that
its table measured and more where these lie far apart, and a place between knots is their multilinear mean. A knot is
estimated when it is first needed, so one price costs a few estimates and a million cost little more.

Where rows of one regime tell nothing of another (`perfdb.regimes`), each regime has a value of its own at every knot,
as if it went on to there: the mean at a place is over values of its own regime, wherever the change cuts its cell. So
it is with coordinates that sizes imply (`perfdb.layers`).

Letters: q queries, d dims, j corners of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise, product
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from oplib.arithmetic import Amount
from oplib.kind import OpKind
from oplib.params import Params
from perfdb.arrays import Floats, Ints, distinct
from perfdb.estimator import Estimator
from perfdb.layers import Layers
from perfdb.performance import Ranks, origin_rank

WIDEST_GAP = 0.5  # octaves between knots
BEYOND = 8  # octaves of knots past the measured range; further out the last of them holds
_SAME = 1e-9  # octaves within which two places are one
_NOTHING = 2.0**-64  # what stands for a size of 0, which has no logarithm

Mask: TypeAlias = NDArray[numpy.bool_]
MEASURED, INTERPOLATED, EXTRAPOLATED = map(
    origin_rank, ("measured", "interpolated", "extrapolated")
)


class Response:
    """Log ratio of latency to bound, its deviation and its origin, of one op at any workload."""

    def __init__(self, kind: OpKind, params: Params, estimator: Estimator) -> None:
        """`params` complete; the estimator is that of the group that they belong to."""
        self._kind, self._params, self.estimator = kind, params, estimator
        self._dims = [name for name in kind.coordinates if name in kind.dims]
        filled = {*kind.dims, *kind.implied}
        self._place = numpy.array(  # of each coordinate; others are filled in
            [
                0.0 if name in filled else numpy.log2(float(params[name] or 0))
                for name in kind.coordinates
            ]
        )
        self._column = [kind.coordinates.index(name) for name in self._dims]
        self._implied = [kind.coordinates.index(name) for name in kind.implied]
        self.knots = [_knots(estimator.places.values[i]) for i in self._column]
        self._shape = tuple(len(knots) for knots in self.knots)
        self._size = math.prod(self._shape)
        self._layers = Layers(kind, params, estimator.sides)
        shape = (len(self._layers), *self._shape)
        self._value = numpy.full(shape, numpy.nan)
        self._deviation = numpy.full(shape, numpy.nan)
        self._rank = numpy.zeros(shape, dtype=numpy.int8)

    def at(self, dims: Mapping[str, Amount]) -> tuple[Floats, Floats, Ranks]:
        """Values, deviations and ranks of origin, broadcast over the numbers or arrays of `dims`."""
        places = [self._locate(name, dims[name]) for name in self._dims]
        crossing = [bool(share.any()) for _, share in places]
        layer = self._layers.number(dims)
        self._grow(len(self._layers))
        if not any(crossing):
            return self._gather([low for low, _ in places], layer)
        shape = numpy.broadcast_shapes(*(low.shape for low, _ in places))
        value, deviation = numpy.zeros(shape), numpy.zeros(shape)
        rank = numpy.full(shape, INTERPOLATED, dtype=numpy.int8)
        exact = numpy.ones(shape, dtype=bool)
        for corner in product(*((0, 1) if crosses else (0,) for crosses in crossing)):
            weight: Floats = numpy.ones(())
            for (_, share), high, crosses in zip(places, corner, crossing, strict=True):
                if crosses:
                    weight = weight * (share if high else 1.0 - share)
            part, spread, origin = self._gather(
                [
                    numpy.minimum(low + high, len(knots) - 1)  # beside the last knot nothing weighs
                    for (low, _), high, knots in zip(places, corner, self.knots, strict=True)
                ],
                layer,
            )
            value += weight * part
            deviation += weight * spread
            if not any(corner):
                lowest = origin
            rank = numpy.maximum(rank, origin * (weight > 0))
        for _, share in places:
            exact &= share == 0.0
        return value, deviation, numpy.where(exact, lowest, rank).astype(numpy.int8)

    def ranks(self, dims: Mapping[str, Amount]) -> Ranks:
        """The ranks of origin that `at` gives, without an estimate."""
        sizes = [
            numpy.asarray(dims[name], dtype=numpy.float64) + (name == "p") for name in self._dims
        ]
        places = numpy.stack(numpy.broadcast_arrays(*sizes), axis=-1).astype(numpy.float64)
        places = numpy.log2(numpy.maximum(places, _NOTHING))  # [..., dims]
        column = [*self._column, *self._implied]
        if self._implied:
            places = numpy.concatenate([places, self._layers.implied(dims)], axis=-1)
        lower, upper = self.estimator.lower, self.estimator.upper
        fixed = numpy.setdiff1d(numpy.arange(len(self._place)), column)
        measured = self.estimator.group.points
        beside = (self._place[fixed] < lower[fixed] - _SAME) | (
            self._place[fixed] > upper[fixed] + _SAME
        )
        beyond = ((places < lower[column] - _SAME) | (places > upper[column] + _SAME)).any(axis=-1)
        if self._kind.jointly:
            whole = numpy.broadcast_to(self._place, (*places.shape[:-1], len(self._place))).copy()
            whole[..., column] = places
            beyond |= ~_reached(whole.reshape(-1, len(self._place)), measured).reshape(beyond.shape)
        rank = numpy.where(beyond | beside.any(), EXTRAPOLATED, INTERPOLATED)
        same = (numpy.abs(measured[:, fixed] - self._place[fixed]) <= _SAME).all(axis=1)
        rows = {tuple(row) for row in measured[same][:, column].round(9).tolist()}
        flat = places.reshape(-1, len(column)).round(9).tolist()
        exact = numpy.array([tuple(place) in rows for place in flat]).reshape(rank.shape)
        return numpy.where(exact, MEASURED, rank).astype(numpy.int8)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the largest measured value of each coordinate."""
        lower, upper = self._sizes(self.estimator.lower), self._sizes(self.estimator.upper)
        return {name: (lower[name], upper[name]) for name in self._kind.coordinates}

    def nearest(self, dims: Mapping[str, Amount]) -> dict[str, float]:
        """The coordinates of the measured row that is nearest to one workload, in octaves."""
        place = self._place.copy()
        for name, column in zip(self._dims, self._column, strict=True):
            place[column] = numpy.log2(float(dims[name]) + (name == "p"))
        measured = self.estimator.group.points
        if self._implied:
            place[self._implied] = self._layers.implied(dims)
        row = numpy.abs(measured - place).sum(axis=1).argmin()
        return self._sizes(measured[row])

    def _sizes(self, place: Floats) -> dict[str, float]:
        """Coordinates as they were before the logarithm."""
        values = numpy.exp2(place).round(6)
        return {
            name: float(value - (name == "p"))
            for name, value in zip(self._kind.coordinates, values, strict=True)
        }

    def _grow(self, count: int) -> None:
        """Room for so many layers, empty where they are new."""
        more = count - len(self._value)
        if more > 0:
            shape = (more, *self._shape)
            empty = numpy.full(shape, numpy.nan)
            self._value = numpy.concatenate([self._value, empty])
            self._deviation = numpy.concatenate([self._deviation, empty])
            self._rank = numpy.concatenate([self._rank, numpy.zeros(shape, dtype=numpy.int8)])

    def _gather(self, index: list[Ints], layer: Ints | None) -> tuple[Floats, Floats, Ranks]:
        """What the knots at these places hold, estimated where no query has needed them so far."""
        nodes = index[0]
        for more, count in zip(index[1:], self._shape[1:], strict=True):
            nodes = nodes * count + more
        if layer is not None:
            nodes = nodes + layer * self._size
        value = self._value.ravel()[nodes]
        if numpy.isnan(value).any():
            self._fill(distinct(nodes[numpy.isnan(value)]))
            value = self._value.ravel()[nodes]
        return value, self._deviation.ravel()[nodes], self._rank.ravel()[nodes]

    def _locate(self, name: str, sizes: Amount) -> tuple[Ints, Floats]:
        """The knot below each size, and how far the size lies from it towards the next, 0 to below 1."""
        knots = self.knots[self._dims.index(name)]
        place = numpy.asarray(sizes, dtype=numpy.float64) + (name == "p")
        place = numpy.log2(numpy.maximum(place, _NOTHING))
        place = numpy.clip(place, knots[0], knots[-1])
        low = numpy.clip(knots.searchsorted(place, side="right") - 1, 0, len(knots) - 2)
        share = (place - knots[low]) / (knots[low + 1] - knots[low])
        last = share >= 1.0  # the last knot is the low end of no cell
        return (low + last, numpy.where(last, 0.0, share)) if last.any() else (low, share)

    def _fill(self, missing: Ints) -> None:
        """Estimate knots, given by their place in the flat arrays."""
        layer, *indices = numpy.unravel_index(missing, self._value.shape)
        points = numpy.tile(self._place, (len(missing), 1))
        for column, knots, index in zip(self._column, self.knots, indices, strict=True):
            points[:, column] = knots[index]
        if self._implied:
            points[:, self._implied] = self._layers.coordinates(layer)
        numbers = self._layers.sides(layer)
        found, known = self.estimator.estimate(points, numbers), self.estimator.known(points)
        lower, upper = self.estimator.lower, self.estimator.upper
        outside = ((points < lower - _SAME) | (points > upper + _SAME)).any(axis=1)
        if self._kind.jointly:
            outside |= ~_reached(points, self.estimator.group.points)
        self._value.ravel()[missing] = found.value
        self._deviation.ravel()[missing] = found.deviation
        rank = numpy.where(outside, EXTRAPOLATED, INTERPOLATED)
        self._rank.ravel()[missing] = numpy.where(known >= 0, MEASURED, rank)


def _reached(points: Floats, measured: Floats) -> Mask:
    """Whether some row is at least as large as a point [n, d] in all coordinates, and some at most."""
    found = numpy.zeros(len(points), dtype=bool)
    for i, point in enumerate(points):
        above = (measured >= point - _SAME).all(axis=1).any()
        found[i] = above and (measured <= point + _SAME).all(axis=1).any()
    return found


def _knots(measured: Floats) -> Floats:
    """Knots of a coordinate: the places where it was measured, more where two lie far apart, and some beyond."""
    parts = [_between(low, high) for low, high in pairwise(measured)]
    below = measured[0] - numpy.arange(BEYOND, 0, -1)
    above = measured[-1] + numpy.arange(1, BEYOND + 1)
    return numpy.concatenate([below[below >= 0], *parts, measured[-1:], above])


def _between(low: float, high: float) -> Floats:
    """`low` and evenly spaced places up to `high`, which is left out."""
    count = max(int(numpy.ceil((high - low) / WIDEST_GAP - _SAME)), 1)
    return numpy.linspace(low, high, count, endpoint=False)
