"""Where an op stands under the roofline: its work, its bytes, its bound, and how much of the bound it reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from models.passes import Passes
from models.pricing import OpPrice
from models.workload import Workload
from oplib.op import Op
from perfdb.arrays import Floats
from perfdb.database import PerfDatabase
from perfdb.performance import PerformanceArray, PerformanceResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Arrays over workloads, of all occurrences in the context passes or in one generation step, the middle one:
    FLOPs, bytes, ms at the peak and at the bandwidths. `achieved` is the bound over the price of the same passes.
    """

    flops: Floats
    bytes: Floats
    compute_ms: Floats
    memory_ms: Floats
    bound_ms: Floats
    achieved: Floats

    def at(self, place: int) -> dict[str, float | str | None]:
        """The fields of one op in a report."""
        moved = float(self.bytes[place])
        return {
            "bound": "compute" if self.compute_ms[place] > self.memory_ms[place] else "memory",
            "bound_ms": float(self.bound_ms[place]),
            "compute_ms": float(self.compute_ms[place]),
            "memory_ms": float(self.memory_ms[place]),
            "achieved": float(self.achieved[place]),
            "flops": float(self.flops[place]),
            "intensity": float(self.flops[place]) / moved if moved else None,
        }


def position(priced: OpPrice, phase: str, db: PerfDatabase, workload: Workload) -> Position:
    """Of one op of a phase at each of the flattened workloads."""
    if phase == "context":
        return _position(priced.op, db, workload.passes)
    b, cached, steps = (
        numpy.broadcast_to(size, workload.shape).ravel()
        for size in (workload.batch, workload.cached, workload.steps)
    )
    middle = cached + numpy.maximum(steps - 1, 0) // 2
    return _position(priced.op, db, Passes.of(b, numpy.ones_like(b), middle))


def _position(op: Op, db: PerfDatabase, passes: Passes) -> Position:
    dims = op.dims_at(b=passes.b, s=passes.s, p=passes.p)

    def total(value: object) -> Floats:
        return passes.sum(_floats(value, passes.b.shape)) * op.count

    bound, compute, memory = map(total, db.sides(op.kind, op.params, dims))
    price = total(db.price(op.kind, op.params, dims))
    return Position(
        flops=total(op.kind.flops(op.params, dims)),
        bytes=total(op.kind.bytes(op.params, dims)),
        compute_ms=compute,
        memory_ms=memory,
        bound_ms=bound,
        achieved=numpy.divide(bound, price, out=numpy.ones(price.shape), where=price > 0),
    )


def _floats(value: object, shape: tuple[int, ...]) -> Floats:
    if isinstance(value, PerformanceArray):
        value = value.latency
    if isinstance(value, PerformanceResult):
        value = float(value)
    return numpy.broadcast_to(numpy.asarray(value, dtype=numpy.float64), shape)
