"""What the tables of a backend say of one op: the points that it is asked at, and how each is covered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy

from oplib.op import Op
from perfdb.database import COVERAGES, Entry, PerfDatabase
from perfdb.performance import PerformanceResult, Ranks
from perfdb.speed_of_light import bound_ms
from tracer.envelope import Ints, points


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the database said of one op: its points, the place of each in COVERAGES, the report's workload last, what
    an occurrence takes there and at least, and why some points are not covered.
    """

    entry: Entry
    dims: Mapping[str, Ints]
    ranks: Ranks
    price: PerformanceResult
    bound_ms: float
    reason: str = ""
    nearest: str = ""

    @property
    def worst(self) -> str:
        """The coverage of the worst point."""
        return COVERAGES[int(self.ranks.max())]


def ask(op: Op, db: PerfDatabase, workloads: Mapping[str, Ints], at: Mapping[str, int]) -> Asked:
    """How the tables cover the points of one op."""
    own = {name: int(size) for name, size in op.dims_at(b=at["b"], s=at["s"], p=at["p"]).items()}
    dims = points(op, workloads)
    beside = numpy.any([dims[name] != own[name] for name in dims], axis=0)
    dims = {name: numpy.append(sizes[beside], own[name]) for name, sizes in dims.items()}
    entry = db.entry(op.kind, op.params, own)
    moved = op.kind.bytes(entry.params, {name: size.astype(float) for name, size in dims.items()})
    fits = numpy.broadcast_to(moved <= db.system.memory_capacity.base, beside.sum() + 1).copy()
    fits[-1] = True  # what was asked stays, even where no GPU holds it
    dims = {name: sizes[fits] for name, sizes in dims.items()}
    if entry.latency is None:
        ranks = numpy.full(int(fits.sum()), COVERAGES.index("missing"), dtype=numpy.int8)
        reason, nearest = entry.missing, entry.nearest.removeprefix("Nearest: ")
    else:
        ranks = entry.latency.ranks(dims)
        reason, nearest = _beyond(entry, dims, ranks)
    price = db.price(op.kind, op.params, own)
    assert isinstance(price, PerformanceResult)
    return Asked(
        entry=entry,
        dims=dims,
        ranks=ranks,
        price=price,
        bound_ms=float(bound_ms(op.kind, entry.params, own, db.system)),
        reason=reason,
        nearest=nearest,
    )


def _beyond(entry: Entry, dims: Mapping[str, Ints], ranks: Ranks) -> tuple[str, str]:
    """Which coordinates of the points leave the measured range, and the row next to the furthest."""
    assert entry.latency is not None
    outside = numpy.flatnonzero(ranks == COVERAGES.index("outside"))
    if not len(outside):
        return "", ""
    said = []
    for name, (low, high) in entry.latency.ranges().items():
        sizes = dims[name][outside] if name in dims else numpy.array([entry.params[name]])
        if (sizes < low).any() or (sizes > high).any():
            said.append(f"{name} {_span(sizes.min(), sizes.max())}, measured {_span(low, high)}")
    last = {name: int(sizes[outside[-1]]) for name, sizes in dims.items()}
    row = entry.latency.nearest(last)
    return "; ".join(said), " ".join(f"{name}={size:g}" for name, size in row.items())


def _span(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
