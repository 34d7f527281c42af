"""Means over generation steps: a function of the cached length, summed over the steps of many workloads at once.

Step i of n finds p = first + i - 1 tokens in the cache. The function is asked at nodes, whole numbers p; between nodes
it is a straight line, whose sum over the steps is known in closed form. Where every p that a step may have fits the
budget, every one is a node and the sum is exact. Else nodes lie p/256 apart: for a function f that is smooth in p this
leaves an error of p² f'' / (12 · 256²), about a millionth of f; a kink costs no more than its share of one gap. Where
f jumps, as it does where a chunk of positions ends, more nodes close in on the jump until it lies between neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from perfdb.arrays import Floats, Ints
from perfdb.performance import ORIGINS, Ranks

EXACT = 131_072  # asked places up to which every step is asked
GAP = 256  # nodes lie at most p/256 apart beyond that
JUMP = 0.006  # relative change from node to node that no smooth function has there: one in proportion to p has 1/256


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Whole cached lengths `p` [n], ascending, at which a function of the cached length is asked."""

    p: Ints

    @classmethod
    def over(cls, first: Ints, last: Ints, *, rows: int) -> Nodes:
        """Nodes for steps from `first` to `last` (arrays of workloads), of a function asked for `rows` batches."""
        low, high = int(first.min()), int(last.max())
        if rows * (high - low + 1) <= EXACT:
            return cls(p=numpy.arange(low, high + 1))
        places = [low]
        while places[-1] < high:
            places.append(min(places[-1] + max(places[-1] // GAP, 1), high))
        return cls(p=numpy.array(places))

    def jumps(self, values: Floats) -> Ints:
        """Places in the middle of the gaps over which a row of `values` [rows, n] jumps."""
        change = numpy.abs(numpy.diff(values, axis=1))
        jumps = (change > JUMP * numpy.abs(values[:, 1:])).any(axis=0) & (numpy.diff(self.p) > 1)
        return (self.p[:-1][jumps] + self.p[1:][jumps]) // 2

    def mean(self, values: Floats, *, row: Ints, first: Ints, last: Ints) -> Floats:
        """The means of rows of `values` [rows, n] over steps `first` to `last`; the three broadcast."""
        half = numpy.diff(self.p) * (values[:, 1:] + values[:, :-1]) / 2
        area = numpy.concatenate([numpy.zeros((len(values), 1)), half.cumsum(axis=1)], axis=1)
        below, end = (self._upto(values, area, row, place) for place in (first, last))
        # `area` counts both ends by half; they count whole.
        total = end[0] - below[0] + (below[1] + end[1]) / 2
        mean: Floats = total / (last - first + 1)
        return mean

    def worst(self, ranks: Ranks, *, row: Ints, first: Ints, last: Ints) -> Ranks:
        """The worst of the ranks of rows of `ranks` [rows, n] over the steps."""
        low = self.p.searchsorted(first, side="right") - 1
        high = self.p.searchsorted(last, side="left")
        found = numpy.zeros(numpy.broadcast_shapes(row.shape, first.shape), dtype=numpy.int8)
        for rank in range(1, len(ORIGINS)):
            reached = ranks >= rank
            if not reached.any():
                break
            if reached.all():
                found[...] = rank
                continue
            count = numpy.zeros((len(ranks), len(self.p) + 1), dtype=numpy.int64)
            reached.cumsum(axis=1, out=count[:, 1:])
            found[count[row, high + 1] > count[row, low]] = rank
        return found

    def _upto(self, values: Floats, area: Floats, row: Ints, place: Ints) -> tuple[Floats, Floats]:
        """Sum from the first node to `place`, its ends by half, and the value there."""
        node = numpy.clip(self.p.searchsorted(place, side="right") - 1, 0, None)
        after = numpy.minimum(node + 1, len(self.p) - 1)
        beyond = place - self.p[node]
        here = values[row, node]
        slope = (values[row, after] - here) / numpy.maximum(self.p[after] - self.p[node], 1)
        value = here + slope * beyond
        return area[row, node] + beyond * (here + value) / 2, value
