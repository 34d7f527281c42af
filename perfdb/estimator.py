"""Estimator: what a group of measured rows says of any place, in log(latency / (bound + launch)).

A measured row is returned as it is. Between rows the estimate is kriging (`perfdb.kriging`), under that model of the
kind which foretells a sample of the group's own rows best, each left out; how far these are off also sets how wide the
deviations are. Outside the measured range of a feature the efficiency at its end is held. Where rows show that a kernel
changes the way it works (`perfdb.regimes`), those of one side tell nothing of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

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
from perfdb.regimes import Sides, regimes_at, regimes_of
from perfdb.row_checks import NEIGHBOURS, allowed_of

Mask: TypeAlias = NDArray[numpy.bool_]

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
    "regimes.py",
)  # what a fit follows from beside the rows and the models
_FEWEST_SHAPES = 3  # of which one can be left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """Estimates of one group. `lower` and `upper` [d] are the measured range of each coordinate, `places` the row
    at each measured place, `gaps` how far off a row is from the rows beside it where that is out of all proportion
    (else 0), `shapes` the same of shapes as `places` of places, `calibration` how wide deviations are; `sides` the
    field of each regime, where rows of one tell nothing of another."""

    group: Group
    model: Model
    field: Field
    sides: Sides | None
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
        field, regimes = _field(group, models[best]), regimes_of(group)
        return cls(
            group=group,
            model=models[best],
            field=field,
            sides=None if regimes is None else Sides(field, regimes),
            lower=numpy.array([values[0] for values in places.values]),
            upper=numpy.array([values[-1] for values in places.values]),
            places=places,
            shapes=Places(group.points[:, shape_of(group)]),
            gaps=gaps_of(group, regimes),
            calibration=calibration,
        )

    def known(self, points: Floats) -> Ints:
        """The row measured at each of `points` [q, d], the first where there are several; -1 where there is none."""
        return self.places.find(points)

    def estimate(self, points: Floats, numbers: Ints | None = None) -> Estimate:
        """Log ratio and one standard deviation at `points` [q, d]; latency is (bound + launch) · exp(value).

        `numbers` [q] are those of `sides` to ask, each as if it went on to there; where not given, a point's own.
        """
        features = features_of(points, self.model.features, self.group.rows.kind.coordinates)
        widths, row = self._widths(points), self.known(points)
        at: Mask = row >= 0
        if self.sides is None:
            found, out = _held(self.field, features)
        else:
            own = self.sides.number(regimes_at(self.group, points))
            asked = own if numbers is None else numbers
            found, out = _held_apart(self.sides, features, asked)
            at = at & (own == asked)
        value, deviation = found.value, found.deviation
        widths[out] = numpy.maximum(widths[out], 1.0)  # no row out there was foretold so well
        deviation *= widths
        value[at] = self.group.ratios[row[at]]
        noise = self.field.covariance.noise * self.calibration.known
        deviation[at] = numpy.maximum(noise, self.gaps[row[at]])
        return Estimate(value=value, deviation=deviation)

    def leave_out(self, asked: Ints, hidden: Ints) -> Estimate:
        """As `estimate` at the rows `asked`, each as if no row of its own set in `hidden` [n] were measured."""
        found = (self.sides or self.field).leave_out(asked, hidden)
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


def _held(field: Field, features: Floats) -> tuple[Estimate, Mask]:
    """Estimates at `features` [q, f], that at the end of what is known where they lie outside, and which of them do.

    These are as far off as the place itself is unknown, and as the field would go on.
    """
    inside = numpy.clip(features, *field.extent)
    found = field.estimate(inside)
    out = numpy.asarray((numpy.abs(inside - features) > _SAME).any(axis=1))
    if out.any():
        there = field.estimate(features[out])
        found.deviation[out] = numpy.hypot(there.deviation, there.value - found.value[out])
    return found, out


def _held_apart(sides: Sides, features: Floats, numbers: Ints) -> tuple[Estimate, Mask]:
    """`_held` where each place is told by the rows of one side, `numbers` [q]."""
    value, deviation = numpy.empty(len(features)), numpy.empty(len(features))
    out = numpy.zeros(len(features), dtype=bool)
    for field, places in sides.parts(numbers):
        found, out[places] = _held(field, features[places])
        value[places], deviation[places] = found.value, found.deviation
    return Estimate(value=value, deviation=deviation), out


def gaps_of(group: Group, regimes: Ints | None = None) -> Floats:
    """Log ratio of each row against the median of up to two rows on either side along its line, of its own regime where
    there are several: its size where that is above a factor of `perfdb.row_checks.NEIGHBOURS`, else 0."""
    along, line = line_of(group)
    if regimes is not None:
        line = line * (int(regimes.max()) + 1) + regimes
    order = numpy.lexsort((group.points[:, along], line))
    ratios, lines, count = group.ratios[order], line[order], len(order)
    near, away = numpy.full((2, 4, count), numpy.nan)
    places = group.points[order, along]
    for beside, octaves, shift in zip(near, away, (-2, -1, 1, 2), strict=True):
        there = numpy.arange(count) + shift
        same = (there >= 0) & (there < count)
        same[same] = lines[there[same]] == lines[same]
        beside[same] = ratios[there[same]]
        octaves[same] = numpy.abs(places[there[same]] - places[same])
    found = numpy.isfinite(near).sum(axis=0)
    near.sort(axis=0)  # what is not there comes last
    rows = numpy.flatnonzero(found >= 2)
    middle = (near[(found[rows] - 1) // 2, rows] + near[found[rows] // 2, rows]) / 2
    off = numpy.abs(ratios[rows] - middle)
    allowed = numpy.full(len(rows), numpy.log(NEIGHBOURS))
    if regimes is not None and len(changed := numpy.flatnonzero(regimes[order[rows]])):
        allowed[changed] = allowed_of(numpy.nanmedian(away[:, rows[changed]], axis=0))
    gaps = numpy.zeros(count)
    gaps[order[rows]] = numpy.where(off > allowed, off, 0.0)
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


def _left(shapes: Ints, hidden: Ints) -> Mask:
    """Of which rows a row of the same shape stays known when their set in `hidden` [n] is hidden."""
    whole = numpy.unique(shapes, return_inverse=True)[1]
    both = numpy.unique(numpy.stack([whole, hidden]), axis=1, return_inverse=True)[1].ravel()
    found: Mask = numpy.bincount(both)[both] < numpy.bincount(whole)[whole]
    return found


def _judged(group: Group, places: Places, models: Sequence[Model]) -> tuple[int, Calibration]:
    """`_judge` of a whole group, which takes most of the time of a first price, so it is kept between runs."""

    def work() -> list[float]:
        best, found = _judge(group, places, models, None)
        return [best, found.known, *(float(f"{size:.4g}") for size in found.sizes)]

    regimes = regimes_of(group)
    sides = b"" if regimes is None else regimes.tobytes()
    data = (group.points.tobytes(), group.ratios.tobytes(), sides)
    key = key_of([text_of(*_TEXTS), repr(models), *data])
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
    joined = [_field(known, model) for model in models]
    fields: Sequence[Field | Sides] = joined
    if (regimes := regimes_of(group)) is not None:
        fields = [Sides(field, regimes[rows]) for field in joined]
    alone, few = order[:_ALONE], order[:_CHOOSING]
    near = joined[0].around(alone, places.codes)  # of each model those that tell most
    found = [field.leave_out(few, places.codes, near[: len(few)]) for field in fields]
    best = int(numpy.argmin([_loss(known, few, one) for one in found]))
    width = width_of(_sizes(known, alone, fields[best].leave_out(alone, places.codes, near)))
    site = site_of(known)
    if len(numpy.unique(site)) < _FEWEST_SHAPES:
        return best, _calibration(group, width, nothing, numpy.zeros(0))
    whole = order[-_WHOLE:]
    near = joined[0].around(whole, site)
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
