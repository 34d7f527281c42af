"""Adaptive cases: rounds that measure next where the tables to come would be off most.

After each round the rows so far are fitted as `perfdb` fits a table. A case that is not measured has two figures: the
deviation that the estimate states there, and the error of the measured row nearest to it when that row is left out. The
larger one says how far off a price may be, and the cases with the largest are measured next. A run ends when that is
at most the target for 90 % of the grid, of which measured cases are known, when every case is measured, or when the
budget is spent. The log is all the state there is: a run that was killed goes on from its rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy

from collector.export import measurement
from oplib.case import Case
from oplib.kind import OpKind
from perfdb.arrays import Floats, Ints
from perfdb.efficiency import Group, coordinates, groups_of
from perfdb.estimator import Estimator
from perfdb.places import Places
from perfdb.systems import System
from perfdb.table_file import write_table
from perfdb.tables import read_table

Json: TypeAlias = dict[str, Any]  # Any: an object decoded from JSON
SHARE = 0.9  # of the grid, that is to be within the target
FIRST = 12  # cases of a group that are measured before any is fitted
ROUND = (32, 512)  # cases of a round: half as many as are measured, within these
_APART = 1.0  # octaves, summed over the coordinates, between two cases of one round
_UNKNOWN = float("inf")  # the error where nothing is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """What a round knows: rows measured, the error that `SHARE` of the grid is within, and the cases to measure next,
    none where the target is reached or the grid is measured."""

    rows: int
    cases: int
    error: float
    next: tuple[Case, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        known = "not known yet" if self.error == _UNKNOWN else f"{self.error:.1%}"
        return f"{self.rows} of {self.cases} cases measured, {SHARE:.0%} of the grid within {known}"


def refine(grid: Sequence[Case], rows: Iterable[Json], system: System, target: float) -> Refined:
    """The state of a grid by the rows of a log, which may have others; `target` is relative, 0.05 for 5 %.

    The grid is in an order that covers it early. A case that has a row of any status is not asked for again.
    """
    last = {row["case_id"]: row for row in rows if row["what"] == "time"}
    good = {case.case_id for case in grid if last.get(case.case_id, {}).get("status") == "ok"}
    errors = numpy.full(len(grid), _UNKNOWN)
    for places in _alike(grid):
        errors[places] = _errors([grid[i] for i in places], good, last, system)
    open_ = numpy.array([case.case_id not in last for case in grid], dtype=bool)
    counted = open_ | numpy.array([case.case_id in good for case in grid], dtype=bool)
    reached = numpy.quantile(errors[counted], SHARE, method="higher") if counted.any() else 0.0
    chosen: tuple[Case, ...] = ()
    if reached > target and open_.any():
        count = min(max(len(good) // 2, ROUND[0]), ROUND[1])
        chosen = tuple(grid[i] for i in _chosen(grid, errors, open_, count))
    return Refined(
        rows=len(good),
        cases=len(grid),
        error=float(reached),
        next=chosen,
    )


def _alike(grid: Sequence[Case]) -> Iterator[Ints]:
    """Places of the cases that a table has in one group: one kind, and parameters that differ in coordinates only."""
    groups: dict[tuple[Any, ...], list[int]] = {}  # Any: parameter values
    for place, case in enumerate(grid):
        key = (case.op, *((k, v) for k, v in case.params.items() if k not in case.kind.coordinates))
        groups.setdefault(key, []).append(place)
    yield from (numpy.array(places, dtype=numpy.intp) for places in groups.values())


def _errors(cases: Sequence[Case], good: set[str], last: dict[str, Json], system: System) -> Floats:
    """How far off a price of each case may be; unknown where the group has too few rows to be fitted."""
    measured = [case.case_id in good for case in cases]
    found = numpy.full(len(cases), _UNKNOWN)
    if sum(measured) < min(FIRST, len(cases)):
        return found
    group = _group(
        cases[0].kind, [last[case.case_id] for case in cases if case.case_id in good], system
    )
    if group is None:
        return found
    estimator = Estimator.fit(group)
    every = numpy.arange(len(group.ratios))
    left_out = estimator.leave_out(every, Places(group.points).codes)
    own = numpy.abs(numpy.expm1(left_out.value - group.ratios))
    points = _points(cases)
    nearest = numpy.array(
        [int(numpy.abs(group.points - point).sum(axis=1).argmin()) for point in points]
    )
    stated = numpy.expm1(estimator.estimate(points).deviation)
    found = numpy.maximum(stated, own[nearest])
    found[measured] = 0.0  # a measured row is returned as it is
    return found


def _group(kind: OpKind, rows: Sequence[Json], system: System) -> Group | None:
    """The rows as a group of a table; the largest where kernels or launches tell several apart."""
    form = next((one for one in kind.table_formats if one.backend), kind.table_format)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{form.stem}.txt"
        write_table(path, kind, [measurement(row, None, [], {}) for row in rows])
        groups = list(groups_of(read_table(path, kind), system))
    return max(groups, key=lambda group: len(group.ratios), default=None)


def _points(cases: Sequence[Case]) -> Floats:
    kind = cases[0].kind
    known = [kind.named(case.params, case.dims) for case in cases]
    columns = {
        name: numpy.array([one[name] or 0 for one in known], dtype=float)
        for name in kind.coordinates
    }
    return coordinates(kind, columns)


def _chosen(
    grid: Sequence[Case], errors: Floats, open_: Any, count: int
) -> list[int]:  # Any: a mask
    """Places of the open cases with the largest errors, no two of a round beside each other; in the order of the grid,
    which covers it early, where errors are equal."""
    found: list[int] = []
    taken: dict[tuple[Any, ...], list[Floats]] = {}  # Any: a kind and parameter values
    for place in numpy.argsort(-errors, kind="stable"):
        if len(found) == count:
            break
        if not open_[place]:
            continue
        case = grid[place]
        key = (case.op, *((k, v) for k, v in case.params.items() if k not in case.kind.coordinates))
        point, near = _points([case])[0], taken.setdefault(key, [])
        if any(float(numpy.abs(point - other).sum()) < _APART for other in near):
            continue
        if errors[place] == _UNKNOWN and len(near) >= FIRST:
            continue
        near.append(point)
        found.append(int(place))
    return found or [int(place) for place in numpy.flatnonzero(open_)[:count]]
