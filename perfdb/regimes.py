"""Regimes: rows of one group between which a kernel changes the way it works, so that neither side tells of the other.

The kind of an op knows where that may be (`OpKind.regime`); whether a kernel does it, the rows say by how far they lie
apart there. How well rows are foretold that are left out does not say it: each has rows of other shapes at its own
size, and only a size between the last before the change and the first after it has none that tells the sides apart.

Letters: n rows, q queries, d coordinates, w neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy

from perfdb.arrays import Floats, Ints
from perfdb.efficiency import Group
from perfdb.folds import line_of
from perfdb.kriging import Estimate, Field

_FEWEST = 12  # rows that are a side of their own
_FEWEST_PAIRS = 2  # of rows beside each other, on either side of the change
_STEP = 2.0  # times as far from each other as rows beside each other are elsewhere
_ROUNDING = 6  # digits of a size that was a logarithm


def regimes_of(group: Group) -> Ints | None:
    """The regime of each row [n]; None where there is one, one has too few rows to tell of it, or no change shows."""
    kind = group.rows.kind
    found = numpy.asarray(kind.regime(group.shared, group.rows.dims), dtype=numpy.intp)
    if not found.ndim or not numpy.ptp(found):
        return None
    if (numpy.unique(found, return_counts=True)[1] < _FEWEST).any():
        return None
    return found if _shows(group, found) else None


def _shows(group: Group, regimes: Ints) -> bool:
    """Whether log ratios of rows beside each other on a line differ more where the regime changes than elsewhere."""
    along, line = line_of(group)
    order = numpy.lexsort((group.points[:, along], line))
    same = numpy.diff(line[order]) == 0
    steps = numpy.abs(numpy.diff(group.ratios[order]))
    across = same & (numpy.diff(regimes[order]) != 0)
    within = same & ~across
    if across.sum() < _FEWEST_PAIRS:
        return False
    usual = float(numpy.median(steps[within])) if within.any() else 0.0
    return float(numpy.median(steps[across])) - usual > math.log(_STEP)


def regimes_at(group: Group, points: Floats) -> Ints:
    """The regime at each of `points` [q, d]."""
    kind = group.rows.kind
    sizes = {
        name: numpy.exp2(points[:, i]).round(_ROUNDING) - (name == "p")
        for i, name in enumerate(kind.coordinates)
        if name in kind.dims
    }
    found: Ints = numpy.asarray(kind.regime(group.shared, sizes), dtype=numpy.intp)
    return numpy.broadcast_to(found, len(points))


class Sides:
    """A field per regime of the known rows."""

    def __init__(self, whole: Field, regimes: Ints) -> None:
        """`regimes` [n] of the points of `whole`."""
        self._whole, self._regimes = whole, regimes
        self.regimes = numpy.unique(regimes)
        self._rows = [numpy.flatnonzero(regimes == one) for one in self.regimes]
        self._fields = [
            Field(whole.points[rows], whole.values[rows], whole.covariance) for rows in self._rows
        ]

    def number(self, regimes: Ints) -> Ints:
        """The number of the side of each of `regimes` [q]; one that no row has counts as the next that rows have."""
        found: Ints = numpy.minimum(self.regimes.searchsorted(regimes), len(self.regimes) - 1)
        return found

    def parts(self, numbers: Ints) -> Iterator[tuple[Field, Ints]]:
        """Each field that is asked at places of sides `numbers` [q], and which of the places."""
        for number, field in enumerate(self._fields):
            places = numpy.flatnonzero(numbers == number)
            if len(places):
                yield field, places

    def leave_out(self, asked: Ints, groups: Ints, near: Ints | None = None) -> Estimate:
        """As `Field.leave_out`; `near` [q, w] are of all rows, and asked where none of the same side is known."""
        value, deviation = numpy.empty(len(asked)), numpy.empty(len(asked))
        lost = numpy.ones(len(asked), dtype=bool)
        for one, rows, field in zip(self.regimes, self._rows, self._fields, strict=True):
            places = numpy.flatnonzero(self._regimes[asked] == one)
            if not len(places):
                continue
            own = numpy.searchsorted(rows, asked[places])
            beside = field.around(own, groups[rows])
            told = (groups[rows][beside] != groups[rows][own][:, None]).any(axis=1)
            if told.any():
                found = field.leave_out(own[told], groups[rows], beside[told])
                there = places[told]
                value[there], deviation[there] = found.value, found.deviation
                lost[there] = False
        if lost.any():
            found = self._whole.leave_out(asked[lost], groups, None if near is None else near[lost])
            value[lost], deviation[lost] = found.value, found.deviation
        return Estimate(value=value, deviation=deviation)
