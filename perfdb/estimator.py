"""Estimator: what a group of measured rows says of any place, in log(latency / (bound + launch)).

A measured row is returned as it is. Between rows the estimate is kriging (`perfdb.kriging`), under that model of the
kind which foretells a sample of the group's own rows best, each left out; how far these are off also sets how wide the
deviations are. Outside the measured range of a feature the efficiency at its end is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy

from perfdb.arrays import Floats, Ints
from perfdb.covariances import Model, models_of
from perfdb.efficiency import Group
from perfdb.features import features_of
from perfdb.folds import line_of, site_of
from perfdb.kriging import Estimate, Field, join
from perfdb.memo import key_of, remember, text_of
from perfdb.places import Places
from perfdb.row_checks import NEIGHBOURS

_CHOOSING, _CALIBRATING = (
    32,
    96,
)  # rows left out to choose a model, and to set the width of deviations
_FEWEST = 12  # rows left out that say something about a width
_STILL_WHOLE = 0.9  # share of a group that stands for all of it
_FREEDOM = 4.0  # of Student's t: a few rows far off decide nothing
_SAME = 1e-9  # octaves within which two features are one
_TEXTS = (
    "estimator.py",
    "features.py",
    "folds.py",
    "kriging.py",
    "nearest.py",
)  # what a fit follows from beside the rows and the models
_LEAST = 1e-3  # of a width: rows may follow a model exactly
_NEAR, _FAR = 0.70, 0.93  # shares of truths meant to lie within one deviation and within two


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """Estimates of one group. `lower` and `upper` [d] are the measured range of each coordinate, `places` the row
    at each measured place, `gaps` how far off a row is from the rows beside it where that is out of all proportion
    (else 0), `width` what deviations are multiplied by."""

    group: Group
    model: Model
    field: Field
    lower: Floats
    upper: Floats
    places: Places
    gaps: Floats
    width: float = 1.0

    @classmethod
    def fit(cls, group: Group, *, spared: Ints | None = None) -> Estimator:
        """The estimator of a group of at least one row; rows `spared` have no say in model and width."""
        models = models_of(group.rows.kind)
        places = Places(group.points)
        if spared is None:
            best, width = _judged(group, places, models)
        else:
            best, width = _judge(group, places, models, spared)
        return cls(
            group=group,
            model=models[best],
            field=_field(group, models[best]),
            lower=numpy.array([values[0] for values in places.values]),
            upper=numpy.array([values[-1] for values in places.values]),
            places=places,
            gaps=gaps_of(group),
            width=width,
        )

    def known(self, points: Floats) -> Ints:
        """The row measured at each of `points` [q, d], the first where there are several; -1 where there is none."""
        return self.places.find(points)

    def estimate(self, points: Floats) -> Estimate:
        """Log ratio and one standard deviation at `points` [q, d]; latency is (bound + launch) · exp(value)."""
        features = features_of(points, self.model.features, self.group.rows.kind.coordinates)
        inside = numpy.clip(features, *self.extent)
        found = self.field.estimate(inside)
        value, deviation = found.value, found.deviation
        out = (numpy.abs(inside - features) > _SAME).any(axis=1)
        if out.any():  # as far off as the place itself is unknown, and as the field would go on
            there = self.field.estimate(features[out])
            deviation[out] = numpy.hypot(there.deviation, there.value - value[out])
        deviation *= self.width
        row = self.known(points)
        at = row >= 0
        value[at] = self.group.ratios[row[at]]
        noise = self.field.covariance.noise * self.width
        deviation[at] = numpy.maximum(noise, self.gaps[row[at]])
        return Estimate(value=value, deviation=deviation)

    def leave_out(self, asked: Ints, hidden: Ints) -> Estimate:
        """As `estimate` at the rows `asked`, each as if no row of its own set in `hidden` [n] were measured."""
        found = self.field.leave_out(asked, hidden)
        return Estimate(value=found.value, deviation=found.deviation * self.width)

    @property
    def extent(self) -> tuple[Floats, Floats]:
        """The least and the largest measured value of each feature [f]."""
        columns = self.field.points.T  # each on its own takes a tenth of all at once
        return numpy.array([c.min() for c in columns]), numpy.array([c.max() for c in columns])


def gaps_of(group: Group) -> Floats:
    """Log ratio of each row against the median of up to two rows on either side along its line: its size where that is
    above a factor of `perfdb.row_checks.NEIGHBOURS`, else 0."""
    along, line = line_of(group)
    order = numpy.lexsort((group.points[:, along], line))
    ratios, lines, count = group.ratios[order], line[order], len(order)
    near = numpy.full((4, count), numpy.nan)
    for beside, shift in zip(near, (-2, -1, 1, 2), strict=True):
        there = numpy.arange(count) + shift
        same = (there >= 0) & (there < count)
        same[same] = lines[there[same]] == lines[same]
        beside[same] = ratios[there[same]]
    found = numpy.isfinite(near).sum(axis=0)
    near.sort(axis=0)  # what is not there comes last
    rows = numpy.flatnonzero(found >= 2)
    middle = (near[(found[rows] - 1) // 2, rows] + near[found[rows] // 2, rows]) / 2
    off = numpy.abs(ratios[rows] - middle)
    gaps = numpy.zeros(count)
    gaps[order[rows]] = numpy.where(off > numpy.log(NEIGHBOURS), off, 0.0)
    return gaps


def subset(group: Group, places: Ints) -> Group:
    """The rows `places` of a group."""
    return replace(
        group,
        rows=group.rows.take(places),
        points=group.points[places],
        ratios=group.ratios[places],
        bounds=group.bounds[places],
    )


def _field(group: Group, model: Model) -> Field:
    points = features_of(group.points, model.features, group.rows.kind.coordinates)
    return Field(points, group.ratios, model.covariance)


def _judged(group: Group, places: Places, models: Sequence[Model]) -> tuple[int, float]:
    """`_judge` of a whole group, which takes most of the time of a first price, so it is kept between runs."""
    key = key_of([text_of(*_TEXTS), repr(models), group.points.tobytes(), group.ratios.tobytes()])
    best, width = remember("fits", key, lambda: list(_judge(group, places, models, None)))
    return int(best), width


def _judge(
    group: Group, places: Places, models: Sequence[Model], spared: Ints | None
) -> tuple[int, float]:
    """Which model foretells a sample of the group best, and the width of its deviations there.

    Rows `spared` are not in the sample, unless hardly any other is left. Nor are they known, as long as they are few:
    a thinned group is another group, with other widths.
    """
    allowed = numpy.setdiff1d(numpy.arange(len(group.ratios)), [] if spared is None else spared)
    count = len(group.ratios)
    if _STILL_WHOLE * count <= len(allowed) < count:
        group = subset(group, allowed)
        places = Places(group.points)
        allowed = numpy.arange(len(allowed))
    if len(allowed) < _FEWEST:
        allowed = numpy.arange(count)
    sample = numpy.random.default_rng(0).permutation(allowed)[:_CALIBRATING]  # the same each time
    if count < _FEWEST or len(numpy.unique(places.codes)) < 2:
        return 0, 1.0
    fields = [_field(group, model) for model in models]
    near = fields[0].around(sample, places.codes)  # of each model those that tell most
    some = slice(_CHOOSING)
    losses = [
        _loss(group, sample[some], field.leave_out(sample[some], places.codes, near[some]))
        for field in fields
    ]
    best = int(numpy.argmin(losses))
    return best, _width(group, sample, _left_out(group, fields[best], sample, places, near))


def _left_out(group: Group, field: Field, sample: Ints, places: Places, near: Ints) -> Estimate:
    """Estimates of the sample: of its first half each row left out, of the second each row's whole site."""
    site, half = site_of(group), len(sample) // 2
    if len(numpy.unique(site)) < _FEWEST:
        return field.leave_out(sample, places.codes, near)
    return join(
        [
            field.leave_out(sample[:half], places.codes, near[:half]),
            field.leave_out(sample[half:], site),
        ]
    )


def _loss(group: Group, sample: Ints, found: Estimate) -> float:
    """Negative log likelihood of the sample, up to a constant."""
    z = (group.ratios[sample] - found.value) / found.deviation
    tails = (_FREEDOM + 1) / 2 * numpy.log1p(numpy.square(z) / _FREEDOM)
    return float((numpy.log(found.deviation) + tails).mean())


def _width(group: Group, sample: Ints, found: Estimate) -> float:
    """What deviations are multiplied by so that the meant shares of the sample lie within one and two of them."""
    z = numpy.abs(group.ratios[sample] - found.value) / found.deviation
    near, far = numpy.quantile(z, [_NEAR, _FAR])
    return float(numpy.sqrt(max(near, _LEAST) * max(far / 2, _LEAST)))
