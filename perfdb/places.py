"""Places: which row of a table lies at a place, found without comparing with every row."""

from __future__ import annotations

import numpy

from perfdb.arrays import Floats, Ints

_SAME = 1e-9  # octaves within which two coordinates are one


class Places:
    """A number per place of points [n, d], the same for rows at one place."""

    def __init__(self, points: Floats) -> None:
        self.values: list[Floats] = []  # of each coordinate, ascending
        self.codes: Ints = numpy.zeros(len(points), dtype=numpy.intp)
        for column in points.T:
            values = numpy.sort(column)
            values = values[numpy.diff(values, prepend=-numpy.inf) > _SAME]
            self.values.append(values)
            self.codes = self.codes * len(values) + self._nearest(values, column)
        self._order = numpy.argsort(self.codes, kind="stable")
        self._sorted = self.codes[self._order]

    def find(self, points: Floats) -> Ints:
        """The first row at each of `points` [q, d]; -1 where there is none."""
        codes = numpy.zeros(len(points), dtype=numpy.intp)
        there = numpy.ones(len(points), dtype=bool)
        for values, column in zip(self.values, points.T, strict=True):
            nearest = self._nearest(values, column)
            there &= numpy.abs(values[nearest] - column) <= _SAME
            codes = codes * len(values) + nearest
        at = numpy.minimum(numpy.searchsorted(self._sorted, codes), len(self._sorted) - 1)
        found: Ints = numpy.where(there & (self._sorted[at] == codes), self._order[at], -1)
        return found

    @staticmethod
    def _nearest(values: Floats, column: Floats) -> Ints:
        middles = (values[1:] + values[:-1]) / 2
        found: Ints = numpy.searchsorted(middles, column)
        return found
