"""Calibration: how much wider deviations are than a model says, by rows of the same group that were left out.

A row left out alone tells of places at shapes that rows have. A row left out with its whole shape tells of shapes that
none has, and the more the nearer its shape is: kernels change along shapes, here much and there little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from perfdb.arrays import Floats, Ints

NEAR, FAR = 0.70, 0.945  # shares of truths meant to lie within one deviation and within two
LEAST = 1e-3  # of a width: rows may follow a model exactly
REACH = 1.0  # octaves over which a shape tells of another
ANYWHERE = 0.02  # what a shape tells of one far away, next to one of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What deviations are multiplied by: `known` at shapes that rows have. Elsewhere it follows from `rows` [n] of the
    group that were left out with their whole shape, `shapes` [n, c]: these were off by `sizes` [n] deviations."""

    known: float
    rows: Ints
    shapes: Floats
    sizes: Floats

    def widths(self, shapes: Floats, barred: NDArray[numpy.bool_] | None = None) -> Floats:
        """The width at each of `shapes` [q, c] that no row has; rows `barred` [q, n] are not asked."""
        if not len(self.sizes):
            return numpy.full(len(shapes), self.known)
        apart = numpy.abs(shapes[:, None, :] - self.shapes).sum(axis=2)
        weights = ANYWHERE + numpy.exp(-apart / REACH)
        if barred is not None:
            weights = numpy.where(barred, 0.0, weights)
        order = numpy.argsort(self.sizes)
        told = weights[:, order].cumsum(axis=1)  # what the rows up to each size tell
        near, far = (self._quantile(order, told, share) for share in (NEAR, FAR))
        return numpy.where(told[:, -1] > 0, _width(near, far), self.known)

    def _quantile(self, order: Ints, told: Floats, share: float) -> Floats:
        """The size [q] below which `share` of all that is `told` [q, n] lies."""
        place = (told < share * told[:, -1:]).sum(axis=1)
        found: Floats = self.sizes[order][place]
        return found


def width_of(sizes: Floats) -> float:
    """What deviations are multiplied by so that the meant shares of errors of these sizes lie within one and two."""
    return float(_width(*numpy.quantile(sizes, [NEAR, FAR])))


def _width(near: Floats, far: Floats) -> Floats:
    found: Floats = numpy.sqrt(numpy.maximum(near, LEAST) * numpy.maximum(far / 2, LEAST))
    return found
