"""Checks of measured rows: which of them cannot be, or hardly can be, what they say; none is dropped.

Each check gives findings: rows with one reason, one finding per group of parameters. The thresholds are those of the
constants below. What to do about a finding is the reader's business: `Checked.doubtful` marks the rows that a database
should not rely on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy
from numpy.typing import NDArray

from oplib.params import ParamValue
from perfdb.arrays import Floats, Ints
from perfdb.efficiency import LAUNCH_MS, bounds_of, sized
from perfdb.row_choice import fingerprint_of, key_of, keys_of, rows_that_count
from perfdb.systems import System
from perfdb.tables import Table

Mask = NDArray[numpy.bool_]

BELOW_BOUND = (
    0.99  # of the bound; what is in a cache need not come from memory, and such rows are named too
)
FALLING = 1.1  # times the time of a larger size on the same line, or the row's own spread where that is more
OTHER_BACKENDS = 10.0  # times faster or slower than the same key elsewhere
OTHER_FLOORS = (
    5.0  # times the least time of a group elsewhere, and then the rows within twice the least
)
NEIGHBOURS = 5.0  # times more or less efficient than the nearest rows of the line
NOISY = 0.3  # middle half of the samples over their median, above which they are no measurement
_NEAR = 2  # neighbours on each side


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Rows (counted from 1 in the file) that fail one check for one reason, and the parameters that they share."""

    check: str
    reason: str
    group: Mapping[str, ParamValue]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """All findings on a table; `marks` holds a mask over its rows per check."""

    findings: tuple[Finding, ...]
    marks: Mapping[str, Mask]

    @property
    def doubtful(self) -> Mask:
        """Rows with a finding that is not one of `HARMLESS`."""
        found: Mask = numpy.any([m for n, m in self.marks.items() if n not in HARMLESS], axis=0)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A table being checked, with what several checks need: bounds [n], keys [n], and the same op elsewhere."""

    table: Table
    bounds: Floats
    keys: Ints
    others: tuple[Table, ...]


def check_rows(table: Table, system: System, others: Sequence[Table] = ()) -> Checked:
    """Every check of `CHECKS` on a table; `others` are tables of the same kind and system of other backends."""
    bounds = bounds_of(table, system)
    subject = Subject(table=table, bounds=bounds, keys=key_of(table), others=tuple(others))
    findings: list[Finding] = []
    marks: dict[str, Mask] = {}
    for name, (check, reason) in CHECKS.items():
        mark, size = check(subject)
        marks[name] = mark
        findings.extend(_findings(subject, name, reason, mark, size))
    return Checked(findings=tuple(findings), marks=MappingProxyType(marks))


def _findings(
    subject: Subject, name: str, reason: str, mark: Mask, size: Floats
) -> Iterator[Finding]:
    if not mark.any():
        return
    table = subject.table
    shared = [p.name for p in table.kind.params if p.name not in table.kind.coordinates]
    places = numpy.flatnonzero(mark)
    for group, inside in table.take(places).split(shared):
        rows = places[inside]
        worst = rows[numpy.argmax(numpy.abs(numpy.log(numpy.maximum(size[rows], 1e-30))))]
        text = reason.format(size=size[worst], row=table.row[worst], ms=table.latency[worst])
        yield Finding(
            check=name,
            reason=text,
            group=group,
            rows=tuple(int(row) for row in table.row[rows]),
        )


def _no_op(subject: Subject) -> tuple[Mask, Floats]:
    return numpy.isnan(subject.bounds) | ~sized(subject.table), numpy.ones(len(subject.table))


def _not_positive(subject: Subject) -> tuple[Mask, Floats]:
    latency = subject.table.latency
    return ~_timed(latency), numpy.ones(len(latency))


def _timed(latency: Floats) -> Mask:
    return numpy.isfinite(latency) & (latency > 0)


def _noisy(subject: Subject) -> tuple[Mask, Floats]:
    """Rows whose samples disagree, the size in limits; those that state no spread are not among them."""
    spread = subject.table.spread
    if spread is None:
        return numpy.zeros(len(subject.table), dtype=bool), numpy.ones(len(subject.table))
    return spread > NOISY, spread / NOISY


def _below_bound(subject: Subject) -> tuple[Mask, Floats]:
    share = subject.table.latency / numpy.maximum(subject.bounds, 1e-30)
    return (share < BELOW_BOUND) & (share > 0), share


def _repeated(subject: Subject) -> tuple[Mask, Floats]:
    """Rows that share key and fingerprint with another; the size is how far their times are apart."""
    table = subject.table
    kernels = fingerprint_of(table).astype(numpy.intp)
    return _several(subject.keys * (kernels.max(initial=0) + 1) + kernels, table.latency)


def _several_kernels(subject: Subject) -> tuple[Mask, Floats]:
    """Rows of a key that several fingerprints measured."""
    table = subject.table
    repeated, size = _several(subject.keys, table.latency)
    kernels = fingerprint_of(table).astype(numpy.float64)
    return repeated & (_spread_of(subject.keys, kernels + 1) > 1), size


def _several(keys: Ints, latency: Floats) -> tuple[Mask, Floats]:
    counts = numpy.bincount(numpy.unique(keys, return_inverse=True)[1])
    several = counts[numpy.unique(keys, return_inverse=True)[1]] > 1
    return several, _spread_of(keys, numpy.clip(latency, 1e-30, 1e30))


def _spread_of(keys: Ints, values: Floats) -> Floats:
    """Largest over smallest of the values that share a key, per row."""
    _, places = numpy.unique(keys, return_inverse=True)
    low = numpy.full(places.max(initial=0) + 1, numpy.inf)
    high = numpy.zeros(len(low))
    numpy.minimum.at(low, places, values)
    numpy.maximum.at(high, places, values)
    spread: Floats = (high / low)[places]
    return spread


def _lines(subject: Subject, regimes: Ints | None = None) -> tuple[Ints, Ints]:
    """The rows in the order of their lines, and where each line begins: rows that differ in the main dim alone.

    Of a key only the row that counts is on a line. A line ends where `regimes` [n] change.
    """
    table = subject.table
    main = _main(table)
    names = [param.name for param in table.kind.params] + [d for d in table.kind.dims if d != main]
    counted = rows_that_count(table)
    lines = keys_of([table], names)[0]
    if regimes is not None:
        lines = lines * (int(regimes.max(initial=0)) + 1) + regimes
    lines = lines[counted]
    order = numpy.lexsort((table.dims[main][counted], lines))
    starts = numpy.flatnonzero(numpy.diff(lines[order], prepend=-1))
    return counted[order], starts


def _main(table: Table) -> str:
    """The dim with most values."""
    return max(table.kind.dims, key=lambda dim: len(numpy.unique(table.dims[dim])))


def _regimes(table: Table) -> Ints:
    """The regime of each row (`OpKind.regime`)."""
    found = numpy.zeros(len(table), dtype=numpy.intp)
    names = [p.name for p in table.kind.params if p.name not in table.kind.coordinates]
    for shared, places in table.split(names):
        dims = {name: sizes[places] for name, sizes in table.dims.items()}
        found[places] = table.kind.regime(shared, dims)
    return found


def _falling(subject: Subject) -> tuple[Mask, Floats]:
    """Rows that take longer than a larger size of the same line; the size is how many times."""
    table = subject.table
    order, starts = _lines(subject)
    size = numpy.ones(len(table))
    for whole in numpy.split(order, starts[1:]):
        line = whole[_timed(table.latency[whole])]
        if not len(line):
            continue
        latency = table.latency[line]
        later = numpy.minimum.accumulate(latency[::-1])[::-1]
        size[line[:-1]] = latency[:-1] / numpy.maximum(later[1:], 1e-30)
    allowed = numpy.full(len(table), FALLING)
    if table.spread is not None:
        allowed = numpy.maximum(allowed, 1 + table.spread)
    return size > allowed, size


def _far_from_neighbours(subject: Subject) -> tuple[Mask, Floats]:
    """Rows whose efficiency is far from the median of their nearest rows on the line, of the same regime."""
    table = subject.table
    size = numpy.ones(len(table))
    log = numpy.log(numpy.maximum(table.latency, 1e-30) / (subject.bounds + LAUNCH_MS))
    allowed = numpy.full(len(table), numpy.log(NEIGHBOURS))
    regimes, place = _regimes(table), numpy.log2(numpy.maximum(table.dims[_main(table)], 1.0))
    order, starts = _lines(subject, regimes)
    for whole in numpy.split(order, starts[1:]):
        line = whole[numpy.isfinite(log[whole]) & _timed(table.latency[whole])]
        if len(line) <= _NEAR:
            continue
        size[line] = numpy.exp(log[line] - numpy.nanmedian(_beside(log[line]), axis=0))
        if regimes[line[0]]:
            octaves = numpy.nanmedian(numpy.abs(_beside(place[line]) - place[line]), axis=0)
            allowed[line] = allowed_of(octaves)
    return numpy.abs(numpy.log(size)) > allowed, size


def _beside(values: Floats) -> Floats:
    """Values of the neighbours on a line [neighbours, n]; nan past its ends."""
    padded = numpy.pad(values, _NEAR, constant_values=numpy.nan)
    shifts = [shift for shift in range(2 * _NEAR + 1) if shift != _NEAR]
    return numpy.stack([padded[shift : shift + len(values)] for shift in shifts])


def allowed_of(octaves: Floats) -> Floats:
    """By how much the logarithm of an efficiency may differ from that of neighbours so far away in a regime that the
    bound does not tell of: work may grow by a power of the size more."""
    found: Floats = numpy.maximum(numpy.log(NEIGHBOURS), octaves * numpy.log(2.0))
    return found


def _far_behind_others(subject: Subject) -> tuple[Mask, Floats]:
    """Rows far slower than the same key in the tables of every other backend that has it."""
    size = _against_others(subject)
    return size > OTHER_BACKENDS, size


def _far_before_others(subject: Subject) -> tuple[Mask, Floats]:
    """Rows far faster than the same key in the tables of every other backend that has it."""
    size = _against_others(subject)
    return size < 1 / OTHER_BACKENDS, size


def _against_others(subject: Subject) -> Floats:
    table = subject.table
    names = [p.name for p in table.kind.params if p.name not in table.kind.immaterial]
    keys, *elsewhere = keys_of([table, *subject.others], [*names, *table.kind.dims])
    return _against(keys, table.latency, elsewhere, [other.latency for other in subject.others])


def _floor_above_others(subject: Subject) -> tuple[Mask, Floats]:
    """Rows at the least time of their group where that is far above the least time of the group elsewhere."""
    table = subject.table
    kind = table.kind
    hidden = {*kind.coordinates, *kind.immaterial}
    names = [param.name for param in kind.params if param.name not in hidden]
    keys, *elsewhere = keys_of([table, *subject.others], names)
    floors = _least(keys, table.latency)
    others = [_least(k, t.latency) for k, t in zip(elsewhere, subject.others, strict=True)]
    size = _against(keys, floors, elsewhere, others)
    return (size > OTHER_FLOORS) & (table.latency < 2 * floors), size


def _least(keys: Ints, latency: Floats) -> Floats:
    _, places = numpy.unique(keys, return_inverse=True)
    low = numpy.full(places.max(initial=0) + 1, numpy.inf)
    numpy.minimum.at(low, places, latency)
    least: Floats = low[places]
    return least


def _against(
    keys: Ints, values: Floats, elsewhere: Sequence[Ints], found: Sequence[Floats]
) -> Floats:
    """Values over the nearest to them of the other tables' least values of the same key; 1 where there is none.

    The nearest, so that one table that is far off does not make the others look so.
    """
    if not elsewhere:
        return numpy.ones(len(values))
    columns = numpy.full((len(elsewhere), len(values)), numpy.nan)
    for column, there, time in zip(columns, elsewhere, found, strict=True):
        order = numpy.lexsort((time, there))
        known = numpy.searchsorted(there[order], keys)
        inside = numpy.minimum(known, len(order) - 1)
        same = there[order][inside] == keys
        column[same] = time[order][inside][same]
    ratios = numpy.log(numpy.maximum(values, 1e-30) / numpy.maximum(columns, 1e-30))
    distance = numpy.where(numpy.isnan(ratios), numpy.inf, numpy.abs(ratios))
    nearest = numpy.argmin(distance, axis=0)
    log = ratios[nearest, numpy.arange(len(values))]
    size: Floats = numpy.exp(numpy.nan_to_num(log, nan=0.0))
    return size


Check = Callable[[Subject], tuple[Mask, Floats]]
CHECKS: Mapping[str, tuple[Check, str]] = MappingProxyType(
    {
        "no_op": (_no_op, "the parameters or sizes describe no op of this kind"),
        "not_positive": (_not_positive, "the time is no positive number: {ms} ms in row {row}"),
        "samples_disagree": (
            _noisy,
            "samples disagree: their middle half is {size:.1f} times as wide as it may be in row {row}",
        ),
        "below_speed_of_light": (
            _below_bound,
            "faster than the speed of light: {size:.2f} of it in row {row}",
        ),
        "falls": (
            _falling,
            "slower than a larger size of the same line: {size:.1f} times in row {row}",
        ),
        "far_from_neighbours": (
            _far_from_neighbours,
            "{size:.3g} times the time that its neighbours on the line suggest in row {row}",
        ),
        "slower_than_other_backends": (
            _far_behind_others,
            "{size:.3g} times the time of the same op in other backends in row {row}",
        ),
        "faster_than_other_backends": (
            _far_before_others,
            "{size:.3g} times the time of the same op in other backends in row {row}",
        ),
        "floor_above_other_backends": (
            _floor_above_others,
            "no row of the group is faster than {size:.3g} times the fastest in other backends",
        ),
        "repeated": (
            _repeated,
            "several rows of one key and kernel, up to {size:.2f} times apart: the median counts",
        ),
        "several_kernels": (
            _several_kernels,
            "one key measured with several kernels, up to {size:.2f} times apart: the fastest counts",
        ),
    }
)
# Several rows of a key are chosen among; times fall where a larger size fills tiles or waves better; and a row that is
# faster than elsewhere, but not than light, says more of elsewhere.
HARMLESS = ("repeated", "several_kernels", "falls", "faster_than_other_backends")
