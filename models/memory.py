"""Memory of one rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from models.layout import Layout
from models.source import Source
from models.workload import Workload
from perfdb.arrays import Floats
from perfdb.systems import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    weights: float
    kv_cache: Floats
    activations: Floats
    capacity: float

    def at(self, place: int) -> dict[str, Any]:
        total = self.weights + float(self.kv_cache[place]) + float(self.activations[place])
        return {
            "weights": self.weights,
            "kv_cache": float(self.kv_cache[place]),
            "activations": float(self.activations[place]),
            "total": total,
            "capacity": self.capacity,
            "fits": total <= self.capacity,
        }


def memory_of(source: Source, layout: Layout, workload: Workload, system: System) -> Memory:
    cache = source.report.get("kv_cache") or {}
    tokens = workload.batch * (workload.cached + workload.osl - 1)
    kv = tokens * cache.get("bytes_per_token", 0) + workload.batch * cache.get(
        "bytes_per_sequence", 0
    )
    kv = numpy.broadcast_to(numpy.asarray(kv, dtype=float), workload.shape or (1,)).ravel()
    kv = kv / layout.tp
    weights = sum(op.get_weights() for op in source.op_list.ops("context")) / layout.tp
    return Memory(
        weights=weights,
        kv_cache=kv,
        activations=numpy.zeros_like(kv),
        capacity=system.memory_capacity.base,
    )
