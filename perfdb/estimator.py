"""Estimator: log ratios of one group of rows, at any place of its coordinates."""

from __future__ import annotations

import numpy

from perfdb.arrays import Floats, Ints
from perfdb.covariances import covariance_of
from perfdb.efficiency import Group
from perfdb.kriging import Covariance, Estimate, Field

_DIGITS = 9  # decimals of an octave to which two places are told apart


class Estimator:
    """What is estimated at `points` from the measured `ratios`; `lower` and `upper` [d] bound the measured range,
    `noise` is the deviation of a repeated measurement."""

    def __init__(self, points: Floats, ratios: Floats, covariance: Covariance) -> None:
        self.points, self.ratios, self.noise = points, ratios, covariance.noise
        self.lower, self.upper = points.min(axis=0), points.max(axis=0)
        self._field = Field(points, ratios, covariance)
        rounded = numpy.round(points, _DIGITS)
        self._rows = {tuple(place): row for row, place in enumerate(rounded.tolist())}

    @classmethod
    def fit(cls, group: Group) -> Estimator:
        """That of a group, with the covariance of its kind."""
        return cls(group.points, group.ratios, covariance_of(group.rows.kind))

    def known(self, points: Floats) -> Ints:
        """The measured row at each of `points` [q, d]; -1 where there is none."""
        rounded = numpy.round(points, _DIGITS).tolist()
        return numpy.array([self._rows.get(tuple(place), -1) for place in rounded], dtype=int)

    def estimate(self, points: Floats) -> Estimate:
        """Estimates at `points` [q, d]. Outside the measured range the value at the nearest place inside, in each
        coordinate, holds; the deviation is that of the place, and of how far the field would go on."""
        held = self._field.estimate(numpy.clip(points, self.lower, self.upper))
        there = self._field.estimate(points)
        deviation = numpy.hypot(there.deviation, there.value - held.value)
        return Estimate(value=held.value, deviation=deviation)
