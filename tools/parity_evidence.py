"""What the measured rows around an op say of its price: the row itself, the ends of its lane, its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy

from oplib.errors import PerfDataNotAvailableError
from oplib.kind import OpKind
from oplib.op import Op
from perfdb.database import PerfDatabase
from perfdb.efficiency import LAUNCH_MS, bounds_of, coordinates, groups_of
from perfdb.estimator import Estimator
from perfdb.folds import site_of
from perfdb.foreign import find_tables
from perfdb.places import Places
from perfdb.speed_of_light import bound_ms
from perfdb.tables import Table, read_table

SAME = 1e-6  # octaves
NEAREST = 6  # sites that are asked around one that was not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The last rows of a lane that a place lies beyond: efficiencies (bound over latency), the last row last, and how
    far the last is off when it is predicted from those before it, by the median of three and by the nearest."""

    dim: str
    last: float
    efficiencies: tuple[float, ...]
    median_off: float
    nearest_off: float
    each_ns: tuple[float, ...]  # time per unit of the dim, of the same rows


class Evidence:
    """The rows of one table that answer an op, and the place of the op among them."""

    def __init__(self, op: Op, dims: Mapping[str, float], db: PerfDatabase) -> None:
        self.kind: OpKind = op.kind
        self.params = db.entry(op.kind, op.params, dims).params
        self.dims = dims
        self.system = db.system
        table = db.table(op.kind)
        assert isinstance(table, Table)
        self.table = table.take(self._answering(table))
        self.points = coordinates(self.kind, self.table.columns)
        self.bound = float(bound_ms(self.kind, self.params, dims, db.system))
        known = self.kind.named(self.params, dims)
        at = {name: numpy.array([float(known[name])]) for name in self.kind.coordinates}
        self.place = coordinates(self.kind, at)[0]

    def _answering(self, table: Table) -> Any:  # Any: a mask
        skipped = {*self.kind.coordinates, *self.kind.immaterial}
        chosen = numpy.ones(len(table), dtype=bool)
        for param in self.kind.params:
            if param.name not in skipped:
                chosen &= table.columns[param.name] == self.params[param.name]
        return chosen

    @cached_property
    def near(self) -> Any:  # Any: |distance| of rows [n, d] in octaves
        return numpy.abs(self.points - self.place)

    @cached_property
    def row(self) -> float | None:
        """The latency measured at the place, ms."""
        here = (self.near < SAME).all(axis=1)
        return float(self.table.latency[here][0]) if here.any() else None

    def tail(self) -> Tail | None:
        """The end of the lane that the place lies beyond, where it has at least six rows."""
        for column, dim in enumerate(self.kind.coordinates):
            lane = self._lane(column)
            if dim not in self.kind.dims or len(lane) < 6:
                continue
            if self.place[column] <= self.points[lane[-1], column] + SAME:
                continue
            bounds = bounds_of(self.table.take(lane[-4:]), self.system)
            efficiency = bounds / self.table.latency[lane[-4:]]
            flat = (bounds + LAUNCH_MS) / self.table.latency[lane[-4:]]
            return Tail(
                dim=dim,
                last=float(self.table.columns[dim][lane[-1]]),
                efficiencies=tuple(float(e) for e in efficiency[1:]),
                median_off=float(efficiency[-1] / numpy.median(efficiency[:3]) - 1),
                nearest_off=float(flat[-1] / flat[-2] - 1),
                each_ns=tuple(
                    float(row)
                    for row in self.table.latency[lane[-3:]] * 1e6 / self._sizes(dim, lane)
                ),
            )
        return None

    def _sizes(self, dim: str, lane: Any) -> Any:  # Any: rows; their sizes
        return self.table.columns[dim][lane[-3:]].astype(float)

    def _lane(self, column: int) -> Any:  # Any: places of rows
        """Rows that share every coordinate but one with the place, in its order."""
        others = [i for i in range(len(self.place)) if i != column]
        rows = numpy.flatnonzero((self.near[:, others] < SAME).all(axis=1))
        return rows[numpy.argsort(self.points[rows, column], kind="stable")]

    def around(self) -> list[float]:
        """The price here by the efficiency of each measured neighbour, ms: the corners of the cell of measured sizes
        that the place lies in, the next row each way along every coordinate, and of each of the nearest sites (sizes
        that do not vary with the workload) the row that is nearest."""
        rows = sorted({*self._corners(), *self._steps(), *self._sites()})
        if not rows:
            return []
        chosen = self.table.take(numpy.array(rows))
        ratios = chosen.latency / (bounds_of(chosen, self.system) + LAUNCH_MS)
        return [float(ratio) * (self.bound + LAUNCH_MS) for ratio in ratios]

    def left_out(self) -> float:
        """How far our way is off at the nearest rows, the median: each left out, with its whole site where the place
        itself lies at a site that was not measured."""
        group = max(
            groups_of(self.table, self.system, self._told), key=lambda group: len(group.ratios)
        )
        estimator = Estimator.fit(group)
        away = numpy.abs(group.points - self.place)
        fixed = [i for i, name in enumerate(self.kind.coordinates) if name not in self.kind.dims]
        known = not fixed or bool((away[:, fixed] < SAME).all(axis=1).any())
        hidden = Places(group.points).codes if known else site_of(group)
        asked = numpy.argsort(away.sum(axis=1), kind="stable")[:NEAREST]
        off = estimator.leave_out(asked, hidden).value - group.ratios[asked]
        return float(numpy.median(numpy.abs(numpy.expm1(off))))

    @property
    def _told(self) -> list[str]:
        skipped = {*self.kind.coordinates, *self.kind.immaterial}
        return [param.name for param in self.kind.params if param.name not in skipped]

    def _corners(self) -> Iterator[int]:
        ends = []
        for column, here in enumerate(self.place):
            sizes = numpy.unique(self.points[:, column])
            below, above = sizes[sizes <= here + SAME], sizes[sizes >= here - SAME]
            ends.append({float(side) for part in (below[-1:], above[:1]) for side in part})
        for corner in product(*ends):
            same = (numpy.abs(self.points - numpy.array(corner)) < SAME).all(axis=1)
            yield from (int(i) for i in numpy.flatnonzero(same)[:1])

    def _steps(self) -> Iterator[int]:
        for column in range(len(self.place)):
            lane = self._lane(column)
            away = self.points[lane, column] - self.place[column]
            yield from (int(i) for i in (*lane[away < -SAME][-1:], *lane[away > SAME][:1]))

    def _sites(self) -> Iterator[int]:
        fixed = [i for i, name in enumerate(self.kind.coordinates) if name not in self.kind.dims]
        varying = [i for i, name in enumerate(self.kind.coordinates) if name in self.kind.dims]
        if not fixed:
            return
        inside = numpy.clip(self.place, self.points.min(axis=0), self.points.max(axis=0))
        away = numpy.abs(self.points - inside)
        apart = away[:, fixed].sum(axis=1).round(9) * 1e3 + away[:, varying].sum(axis=1)
        sites = numpy.unique(self.points[:, fixed].round(9), axis=0, return_inverse=True)[1]
        order = numpy.argsort(apart, kind="stable")
        _, firsts = numpy.unique(sites.reshape(-1)[order], return_index=True)
        yield from (int(order[i]) for i in numpy.sort(firsts)[:NEAREST])


def elsewhere(op: Op, dims: Mapping[str, float], db: PerfDatabase) -> dict[str, float]:
    """What the other files with rows of the op say, ms, by the name of the file."""
    found: dict[str, float] = {}
    first, *others = find_tables(
        op.kind, system=db.system.id, backend=db.backend, version=db.version, data=db.data
    )
    for path in others:
        if path.stem == first.stem:
            continue
        other = PerfDatabase(db.system, backend=db.backend, version=db.version, mode="silicon")
        try:
            other._tables[op.kind.name] = read_table(path, op.kind)
            found[path.stem] = float(other.price(op.kind, op.params, dims))  # type: ignore[arg-type]
        except PerfDataNotAvailableError:
            continue
    return found
