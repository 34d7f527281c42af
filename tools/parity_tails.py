"""Three ways past the last row of a table, tried on the last rows themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from oplib.registry import kind
from perfdb.database import PerfDatabase
from perfdb.efficiency import LAUNCH_MS, groups_of
from perfdb.tables import Table

LEAST = 6  # rows of a lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """How far the last row of each lane is from what the rows before it say: |error|, median and 90th percentile, by
    the median efficiency of the three before it, by the efficiency of the one before it, and by its time per token."""

    name: str
    lanes: int
    median: tuple[float, float]
    nearest: tuple[float, float]
    steady: tuple[float, float]


def tails(db: PerfDatabase, names: tuple[str, ...] = ("gemm", "moe")) -> Iterator[Tails]:
    """Those of each dtype of some kinds, along the number of tokens."""
    for name in names:
        table = db.table(kind(name))
        assert isinstance(table, Table)
        found: dict[str, list[tuple[float, float, float]]] = {}
        for group in groups_of(table, db.system):
            column = table.kind.coordinates.index("m")
            lanes = numpy.unique(
                numpy.delete(group.points, column, axis=1).round(9), axis=0, return_inverse=True
            )[1].reshape(-1)
            for lane in range(int(lanes.max()) + 1):
                rows = numpy.flatnonzero(lanes == lane)
                rows = rows[numpy.argsort(group.points[rows, column], kind="stable")]
                if len(rows) >= LEAST:
                    latency, bounds = group.rows.latency[rows], group.bounds[rows]
                    plain, lifted = bounds / latency, (bounds + LAUNCH_MS) / latency
                    each = latency / numpy.exp2(group.points[rows, column])
                    off = (
                        plain[-1] / numpy.median(plain[-4:-1]) - 1,
                        lifted[-1] / lifted[-2] - 1,
                        each[-2] / each[-1] - 1,
                    )
                    found.setdefault(str(group.shared["dtype"]), []).append(off)
        for dtype, offs in found.items():
            size = numpy.abs(numpy.array(offs))
            half, most = numpy.quantile(size, 0.5, axis=0), numpy.quantile(size, 0.9, axis=0)
            yield Tails(
                name=f"{name} {dtype}",
                lanes=len(offs),
                median=(float(half[0]), float(most[0])),
                nearest=(float(half[1]), float(most[1])),
                steady=(float(half[2]), float(most[2])),
            )
