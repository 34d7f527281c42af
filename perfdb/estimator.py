"""Estimator: what a group of measured rows says of any place, in log(latency / (bound + launch)).

A measured row is returned as it is. Between rows the estimate is kriging (`perfdb.kriging`), under that model of the
kind which foretells a sample of the group's own rows best, each left out; how far these are off also sets how wide the
deviations are. Outside the measured range of a feature the efficiency at its end is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray

from perfdb.arrays import Floats, Ints
from perfdb.calibration import Calibration, width_of
from perfdb.covariances import Model, models_of
from perfdb.efficiency import Group
from perfdb.features import features_of
from perfdb.folds import line_of, shape_of, site_of
from perfdb.kriging import Estimate, Field
from perfdb.memo import key_of, remember, text_of
from perfdb.places import Places
from perfdb.row_checks import NEIGHBOURS

_CHOOSING, _ALONE, _WHOLE = 48, 96, 48  # rows left out: to choose a model; alone; with their shape
_FEWEST = 12  # rows left out that say something about a width
_STILL_WHOLE = 0.9  # share of a group that stands for all of it
_FREEDOM = 4.0  # of Student's t: a few rows far off decide nothing
_SAME = 1e-9  # octaves within which two features are one
_TEXTS = (
    "calibration.py",
    "estimator.py",
    "features.py",
    "folds.py",
    "kriging.py",
    "nearest.py",
)  # what a fit follows from beside the rows and the models
_FEWEST_SHAPES = 3  # of which one can be left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """Estimates of one group. `lower` and `upper` [d] are the measured range of each coordinate, `places` the row
    at each measured place, `gaps` how far off a row is from the rows beside it where that is out of all proportion
    (else 0), `shapes` the same of shapes as `places` of places, `calibration` how wide deviations are."""

    group: Group
    model: Model
    field: Field
    lower: Floats
    upper: Floats
    places: Places
    shapes: Places
    gaps: Floats
    calibration: Calibration

    @classmethod
    def fit(cls, group: Group, *, spared: Ints | None = None) -> Estimator:
        """The estimator of a group of at least one row; rows `spared` have no say in model and width."""
        models = models_of(group.rows.kind)
        places = Places(group.points)
        if spared is None:
            best, calibration = _judged(group, places, models)
        else:
            best, calibration = _judge(group, places, models, spared)
        return cls(
            group=group,
            model=models[best],
            field=_field(group, models[best]),
            lower=numpy.array([values[0] for values in places.values]),
            upper=numpy.array([values[-1] for values in places.values]),
            places=places,
            shapes=Places(group.points[:, shape_of(group)]),
            gaps=gaps_of(group),
            calibration=calibration,
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
        widths = self._widths(points)
        if out.any():  # as far off as the place itself is unknown, and as the field would go on
            there = self.field.estimate(features[out])
            deviation[out] = numpy.hypot(there.deviation, there.value - value[out])
            widths[out] = numpy.maximum(widths[out], 1.0)  # no row out there was foretold so well
        deviation *= widths
        row = self.known(points)
        at = row >= 0
        value[at] = self.group.ratios[row[at]]
        noise = self.field.covariance.noise * self.calibration.known
        deviation[at] = numpy.maximum(noise, self.gaps[row[at]])
        return Estimate(value=value, deviation=deviation)

    def leave_out(self, asked: Ints, hidden: Ints) -> Estimate:
        """As `estimate` at the rows `asked`, each as if no row of its own set in `hidden` [n] were measured."""
        found = self.field.leave_out(asked, hidden)
        calibration, shape = self.calibration, self.group.points[:, shape_of(self.group)]
        barred = hidden[calibration.rows] == hidden[asked][:, None]
        widths = numpy.where(
            _left(self.shapes.codes, hidden)[asked],
            calibration.known,
            calibration.widths(shape[asked], barred),
        )
        return Estimate(value=found.value, deviation=found.deviation * widths)

    def _widths(self, points: Floats) -> Floats:
        """What deviations are multiplied by at `points` [q, d]."""
        shapes = points[:, shape_of(self.group)]
        widths = numpy.full(len(points), self.calibration.known)
        new = self.shapes.find(shapes) < 0
        if new.any():
            widths[new] = self.calibration.widths(shapes[new])
        return widths

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


def _left(shapes: Ints, hidden: Ints) -> NDArray[numpy.bool_]:
    """Of which rows a row of the same shape stays known when their set in `hidden` [n] is hidden."""
    whole = numpy.unique(shapes, return_inverse=True)[1]
    both = numpy.unique(numpy.stack([whole, hidden]), axis=1, return_inverse=True)[1].ravel()
    found: NDArray[numpy.bool_] = numpy.bincount(both)[both] < numpy.bincount(whole)[whole]
    return found


def _judged(group: Group, places: Places, models: Sequence[Model]) -> tuple[int, Calibration]:
    """`_judge` of a whole group, which takes most of the time of a first price, so it is kept between runs."""

    def work() -> list[float]:
        best, found = _judge(group, places, models, None)
        return [best, found.known, *(float(f"{size:.4g}") for size in found.sizes)]

    key = key_of([text_of(*_TEXTS), repr(models), group.points.tobytes(), group.ratios.tobytes()])
    best, known, *sizes = remember("fits", key, work)
    rows = _order(numpy.arange(len(group.ratios)))[len(group.ratios) - len(sizes) :]
    return int(best), _calibration(group, known, rows, numpy.array(sizes))


def _order(rows: Ints) -> Ints:
    """Rows in an order that is drawn, but the same each time."""
    return numpy.random.default_rng(0).permutation(rows)


def _calibration(group: Group, known: float, rows: Ints, sizes: Floats) -> Calibration:
    shapes = group.points[rows][:, shape_of(group)]
    return Calibration(known=known, rows=rows, shapes=shapes, sizes=sizes)


def _judge(
    group: Group, places: Places, models: Sequence[Model], spared: Ints | None
) -> tuple[int, Calibration]:
    """Which model foretells a sample of the group best, and how wide its deviations are there.

    Rows `spared` are not in the sample, unless hardly any other is left. Nor are they known, as long as they are few:
    a thinned group is another group, with other widths.
    """
    count = len(group.ratios)
    nothing = numpy.zeros(0, dtype=numpy.intp)
    if count < _FEWEST or len(numpy.unique(places.codes)) < 2:
        return 0, _calibration(group, 1.0, nothing, numpy.zeros(0))
    allowed = numpy.setdiff1d(numpy.arange(count), [] if spared is None else spared)
    if len(allowed) < _FEWEST:
        allowed = numpy.arange(count)
    known, rows = group, numpy.arange(count)
    if _STILL_WHOLE * count <= len(allowed) < count:
        known, rows = subset(group, allowed), allowed
        places, allowed = Places(known.points), numpy.arange(len(allowed))
    order = _order(allowed)
    fields = [_field(known, model) for model in models]
    alone, few = order[:_ALONE], order[:_CHOOSING]
    near = fields[0].around(alone, places.codes)  # of each model those that tell most
    found = [field.leave_out(few, places.codes, near[: len(few)]) for field in fields]
    best = int(numpy.argmin([_loss(known, few, one) for one in found]))
    width = width_of(_sizes(known, alone, fields[best].leave_out(alone, places.codes, near)))
    site = site_of(known)
    if len(numpy.unique(site)) < _FEWEST_SHAPES:
        return best, _calibration(group, width, nothing, numpy.zeros(0))
    whole = order[-_WHOLE:]
    near = fields[0].around(whole, site)
    sizes = _sizes(known, whole, fields[best].leave_out(whole, site, near))
    return best, _calibration(group, width, rows[whole], sizes)


def _sizes(group: Group, sample: Ints, found: Estimate) -> Floats:
    """Errors of the sample in stated deviations."""
    return numpy.abs(group.ratios[sample] - found.value) / found.deviation


def _loss(group: Group, sample: Ints, found: Estimate) -> float:
    """Negative log likelihood of the sample, up to a constant, with deviations of the width that they would get."""
    z = _sizes(group, sample, found)
    width = width_of(z)
    tails = (_FREEDOM + 1) / 2 * numpy.log1p(numpy.square(z / width) / _FREEDOM)
    return float((numpy.log(width * found.deviation) + tails).mean())
