"""What the tables of a backend say of one op: the points that it is asked at, and how each is covered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from oplib.kind import OpKind
from oplib.op import Op
from perfdb.database import COVERAGES, Entry, PerfDatabase
from perfdb.modules import VAGUE
from perfdb.performance import PerformanceResult, Ranks
from perfdb.speed_of_light import bound_ms
from tracer.envelope import Ints, points

Mask: TypeAlias = NDArray[numpy.bool_]


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
        vague, spread = _vague(entry, dims, ranks)
        reason, nearest = _beyond(op.kind, entry, dims, ranks)
        if vague.any():
            ranks = numpy.where(vague, COVERAGES.index("outside"), ranks).astype(numpy.int8)
            far = f"estimates between the rows are off by {spread:.0%} (one sigma)"
            reason = "; ".join(filter(None, (reason, far)))
            nearest = nearest or _nearest(entry, dims, int(numpy.flatnonzero(vague)[-1]))
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


def _beyond(kind: OpKind, entry: Entry, dims: Mapping[str, Ints], ranks: Ranks) -> tuple[str, str]:
    """Which coordinates of the points leave the measured range, and the row next to the furthest."""
    assert entry.latency is not None
    outside = numpy.flatnonzero(ranks == COVERAGES.index("outside"))
    if not len(outside):
        return "", ""
    known = kind.named(entry.params, dims)
    said = []
    for name, (low, high) in entry.latency.ranges().items():
        sizes = numpy.broadcast_to(known[name], ranks.shape)[outside]
        if (sizes < low).any() or (sizes > high).any():
            said.append(f"{name} {_span(sizes.min(), sizes.max())}, measured {_span(low, high)}")
    return "; ".join(said), _nearest(entry, dims, int(outside[-1]))


def _vague(entry: Entry, dims: Mapping[str, Ints], ranks: Ranks) -> tuple[Mask, float]:
    """Points between measured rows that these say too little of, and the worst relative deviation of such a one."""
    assert entry.latency is not None
    vague = ranks == COVERAGES.index("interpolable")
    if not vague.any():
        return vague, 0.0
    inside = {name: sizes[vague] for name, sizes in dims.items()}
    spread = numpy.expm1(entry.latency.at(inside)[1])
    vague[vague] = spread > VAGUE
    return vague, float(spread.max())


def _nearest(entry: Entry, dims: Mapping[str, Ints], place: int) -> str:
    """The measured row next to a point."""
    assert entry.latency is not None
    row = entry.latency.nearest({name: int(sizes[place]) for name, sizes in dims.items()})
    return " ".join(f"{name}={size:g}" for name, size in row.items())


def _span(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
