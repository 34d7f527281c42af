"""The points nearest to a few places by comparing all, and to many places by a tree.

scipy's tree takes longer to load than a price takes, and longer to build than a few places take to compare. Both ways
have to give the same neighbours: grids are full of equal distances, so each point is moved by an amount of its own,
too small to matter and large enough to decide.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy

from perfdb.arrays import Floats, Ints

MOST = 5_000_000  # distances that are compared before a tree is built, while scipy is not loaded
_MOST_LOADED = 100_000  # and once it is
_THINNED = 16
_MOVE = 1e-6  # in units of the coordinates
_GOLDEN = 0.618_033_988_749_895  # multiples of it, modulo 1, never meet


@lru_cache(maxsize=4)
def _moves(dims: int, count: int) -> Floats:
    """By how much each of `count` points is moved in each of `dims`."""
    steps = _GOLDEN ** numpy.arange(1, dims + 1)
    moves: Floats = _MOVE * (numpy.arange(count) * steps[:, None] % 1)
    return moves


class Nearest:
    """Points [n, d] among which neighbours are searched."""

    def __init__(self, points: Floats) -> None:
        self._columns: Floats = numpy.add(points.T, _moves(*points.T.shape), order="C")
        self._count = len(points)
        self._compared = 0
        self._tree: Any = None  # scipy's, built when there are many places

    def query(self, places: Floats, k: int) -> Ints:
        """The `k` nearest points [q, k] of each of `places` [q, d], in no order."""
        self._compared += len(places) * self._count
        most = min(MOST, _MOST_LOADED) if "scipy.spatial" in sys.modules else MOST
        if self._tree is None and self._compared > most:
            from scipy.spatial import cKDTree

            self._tree = cKDTree(self._columns.T, balanced_tree=False, compact_nodes=False)
        if self._tree is not None:
            found: Ints = self._tree.query(places, k=k)[1].reshape(len(places), k)
            return found
        if k == self._count:
            return numpy.tile(numpy.arange(k), (len(places), 1))
        nearest: Ints = numpy.stack([self._compare(place, k) for place in places])
        return nearest

    def _compare(self, place: Floats, k: int) -> Ints:
        """The `k` nearest of all points: none is further than the k nearest of every 16th, which leaves few to sort."""
        far, step = numpy.zeros(self._count), numpy.empty(self._count)
        for size, column in zip(place, self._columns, strict=True):
            numpy.subtract(column, size, out=step)
            far += numpy.square(step, out=step)
        some = far[::_THINNED]
        if len(some) < k:
            return numpy.argpartition(far, k - 1)[:k]
        close = numpy.flatnonzero(far <= numpy.partition(some, k - 1)[k - 1])
        found: Ints = close[numpy.argpartition(far[close], k - 1)[:k]]
        return found
