"""Estimator: what a group of measured rows says of any place, in log(latency / (bound + launch)).

A measured row is returned as it is. Between rows the estimate is kriging (`perfdb.kriging`). Outside the measured range
the efficiency at the nearest place inside is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy

from perfdb.arrays import Floats, Ints
from perfdb.covariances import covariance_of
from perfdb.efficiency import Group
from perfdb.kriging import Estimate, Field

_DIGITS = 9  # decimals of an octave to which two places are told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """Estimates of one group. `lower` and `upper` [d] are the measured range of each coordinate, `rows` the row at
    each measured place."""

    group: Group
    field: Field
    lower: Floats
    upper: Floats
    rows: Mapping[tuple[float, ...], int]

    @classmethod
    def fit(cls, group: Group) -> Estimator:
        """The estimator of a group of at least one row."""
        points = group.points
        backward = points[::-1].round(_DIGITS).tolist()  # of several rows at one place the first
        return cls(
            group=group,
            field=Field(points, group.ratios, covariance_of(group.rows.kind)),
            lower=points.min(axis=0),
            upper=points.max(axis=0),
            rows={tuple(place): len(backward) - 1 - i for i, place in enumerate(backward)},
        )

    def known(self, points: Floats) -> Ints:
        """The row measured at each of `points` [q, d], the first where there are several; -1 where there is none."""
        places = points.round(_DIGITS).tolist()
        return numpy.array([self.rows.get(tuple(place), -1) for place in places], dtype=numpy.intp)

    def estimate(self, points: Floats) -> Estimate:
        """Log ratio and one standard deviation at `points` [q, d]; latency is (bound + launch) · exp(value)."""
        inside = numpy.clip(points, self.lower, self.upper)
        found = self.field.estimate(inside)
        value, deviation = found.value, found.deviation
        out = (inside != points).any(axis=1)
        if out.any():  # as far off as the place itself is unknown, and as the field would go on
            there = self.field.estimate(points[out])
            deviation[out] = numpy.hypot(there.deviation, there.value - value[out])
        row = self.known(points)
        at = row >= 0
        value[at] = self.group.ratios[row[at]]
        deviation[at] = self.field.covariance.noise
        return Estimate(value=value, deviation=deviation)

    def leave_out(self, asked: Ints, hidden: Ints) -> Estimate:
        """As `estimate` at the rows `asked`, each as if no row of its own set in `hidden` [n] were measured."""
        return self.field.leave_out(asked, hidden)


def subset(group: Group, places: Ints) -> Group:
    """The rows `places` of a group."""
    return replace(
        group,
        rows=group.rows.take(places),
        points=group.points[places],
        ratios=group.ratios[places],
        bounds=group.bounds[places],
    )
