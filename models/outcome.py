"""Outcome: a model under one layout, priced for arrays of workloads, and what `price-model --json` prints of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from models.advice import (
    beyond_positions,
    beyond_rows,
    beyond_servers,
    collected,
    listed,
    of_other_ops,
    of_sums,
)
from models.layout import Layout
from models.memory import USABLE, Footprint, footprint
from models.modules import BEYOND
from models.pricing import ModulePrice, OpPrice, PhasePrice, Price, price
from models.roofline import Position, position
from models.sharding import shard
from models.source import Source
from models.workload import Workload
from oplib.oplist import PHASES, OpList
from oplib.wording import gib
from perfdb.arrays import Floats
from perfdb.database import PerfDatabase
from perfdb.performance import ORIGINS, PerformanceArray, PerformanceResult, origin_rank
from perfdb.systems import System

SCHEMA = 1
FASTEST, SLOWEST = 1.05, 0.02  # shares of the bound beyond which a measured price is doubtful
LONG_MS = 0.02  # a call whose bound is shorter may well be all launch
Json = dict[str, Any]  # Any: an object that becomes JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `report` makes an object of, for each of its workloads."""

    source: Source
    db: PerfDatabase
    layout: Layout
    price: Price
    footprint: Footprint | None  # None where only an op list was saved
    modules: str = "auto"  # the choice that it was priced with

    @property
    def per_gpu(self) -> Floats:
        """Tokens of answers per second and GPU, one for each workload."""
        layout = self.layout
        return self.price.tokens_per_s_per_gpu(gpus=layout.num_gpus, replicas=layout.dp)


def run(
    source: Source,
    db: PerfDatabase,
    layouts: Sequence[Layout],
    workload: Workload,
    *,
    modules: str = "auto",
) -> list[Outcome]:
    """The outcomes of all layouts; `modules` is one of `models.modules.CHOICES`."""
    return [
        Outcome(
            source=source,
            db=db,
            layout=layout,
            price=price(stages_of(source, layout), db, workload, modules=modules),
            footprint=footprint_of(source, layout, db.system),
            modules=modules,
        )
        for layout in layouts
    ]


def stages_of(source: Source, layout: Layout) -> tuple[OpList, ...]:
    """The op list of a rank of each pipeline stage."""
    return shard(source.op_list, layout, source.layers)


def footprint_of(source: Source, layout: Layout, system: System) -> Footprint | None:
    """The memory of a rank; None where the report does not say what its cache and its passes hold."""
    if not {"layers", "kv_cache", "activations"} <= source.report.keys():
        return None
    return footprint(source.report, layout, system=system)


def reports(outcome: Outcome) -> Iterator[Json]:
    """The object of each workload, in the order of its flattened array."""
    found, workload = outcome.price, outcome.price.workload
    per_gpu, passes = numpy.ravel(outcome.per_gpu), workload.passes.count
    totals = {"ttft": found.ttft, "tpot": found.tpot, "request": found.request}
    totals = {name: flat(total, workload) for name, total in totals.items()}
    rows = [
        _Rows.of(outcome, phase, stage) for phase in PHASES for stage in range(len(found.stages))
    ]
    for place, at in enumerate(numpy.ndindex(workload.shape or (1,))):
        request, steps = (
            totals["request"][place],
            numpy.broadcast_to(workload.steps, workload.shape or (1,))[at],
        )
        phases = {
            phase: _phase(totals[name][place], [r for r in rows if r.phase == phase], place)
            for phase, name in zip(PHASES, ("ttft", "tpot"), strict=True)
            if phase == "context" or steps
        }
        ops = [row for phase in phases.values() for row in phase.pop("ops")]
        modules = [one for row in rows if row.phase in phases for one in row.modules_at(place)]
        yield {
            "schema": SCHEMA,
            "model": outcome.source.name,
            "system": outcome.db.system.id,
            "backend": outcome.db.backend,
            "version": outcome.db.version,
            "mode": outcome.db.mode,
            "layout": outcome.layout.to_json(),
            "gpus": outcome.layout.num_gpus,
            "workload": workload.at(at if workload.shape else ()),
            "chunk": workload.chunk or None,
            "context_passes": int(passes[place]),
            "ttft_ms": float(totals["ttft"][place]),
            "tpot_ms": float(totals["tpot"][place]) if steps else None,
            "request_ms": float(request),
            "tokens_per_s_per_gpu": float(per_gpu[place]),
            "tokens_per_s_per_user": 1e3 / float(totals["tpot"][place]) if steps else None,
            **_energy(outcome, request, workload, at),
            "uncertainty": request.uncertainty,
            "origin": request.origin,
            "origins": _mixed(phases, int(steps)),
            "memory": _memory(outcome, workload.at(at if workload.shape else ())),
            "phases": phases,
            "ops": ops,
            "modules": modules,
            "notes": [*notes(outcome, ops), *chosen(modules)],
        }


def flat(results: PerformanceArray, workload: Workload) -> PerformanceArray:
    """Results over the flattened array of workloads."""
    shape = workload.shape or (1,)
    size = int(numpy.prod(shape))
    return results.each(lambda held: numpy.broadcast_to(held, shape).reshape(size))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The ops of one phase and stage with their positions, over the flattened workloads."""

    phase: str
    stage: int
    ops: tuple[OpPrice, ...]
    modules: tuple[ModulePrice, ...]
    positions: tuple[Position, ...]
    place: Any  # the point of each workload

    @classmethod
    def of(cls, outcome: Outcome, phase: str, stage: int) -> _Rows:
        found: PhasePrice | None = getattr(outcome.price.stages[stage], phase)  # one of PHASES
        workload = outcome.price.workload
        if found is None:
            return cls(phase=phase, stage=stage, ops=(), modules=(), positions=(), place=None)
        place = numpy.broadcast_to(found.place, workload.shape or (1,)).ravel()
        positions = tuple(position(op, phase, outcome.db, workload) for op in found.ops)
        return cls(
            phase=phase,
            stage=stage,
            ops=found.ops,
            modules=found.modules,
            positions=positions,
            place=place,
        )

    def at(self, place: int) -> Iterator[Json]:
        """The objects of the ops at one workload, without their shares."""
        for priced, where in zip(self.ops, self.positions, strict=True):
            if not priced.at(self.place[place]):
                continue
            ms: PerformanceResult = priced.ms[self.place[place]]
            op = priced.op
            yield {
                "phase": self.phase,
                "stage": self.stage,
                "name": op.name,
                "op": op.op,
                "layer": op.layer,
                "params": dict(op.params),
                "count": op.count,
                "ms": float(ms),
                **_energy_of(ms),
                "origin": ms.origin,
                "uncertainty": ms.uncertainty,
                **where.at(place),
            }

    def modules_at(self, place: int) -> Iterator[Json]:
        """What the sets of ops that are, or might be, a module of a table cost either way at one workload."""
        for priced in self.modules:
            point = self.place[place]
            module, op = priced.module, priced.module.op
            ms = None if module.ms is None else module.ms[point]
            parts = None if priced.parts_ms is None else priced.parts_ms[point]
            used = priced.at(point)
            yield {
                "phase": self.phase,
                "stage": self.stage,
                "layer": module.found.layer,
                "module": module.found.path,
                "op": module.found.kind,
                "params": {} if op is None else dict(op.params),
                "count": 0 if op is None else op.count,
                "used": used,
                "reason": "" if used else module.reason or BEYOND,
                **_priced("", ms),
                "parts": list(priced.parts),
                **_priced("parts_", parts),
            }


def _energy_of(found: PerformanceResult) -> Json:
    unknown = found.energy is None
    return {
        "energy": found.energy,
        "energy_uncertainty": None if unknown else found.energy_uncertainty,
    }


def _priced(prefix: str, ms: PerformanceResult | None) -> Json:
    """A price of a module, as fields whose names begin with `prefix`."""
    return {
        f"{prefix}ms": None if ms is None else float(ms),
        f"{prefix}origin": None if ms is None else ms.origin,
        f"{prefix}uncertainty": None if ms is None else ms.uncertainty,
    }


def _phase(total: PerformanceResult, rows: Sequence[_Rows], place: int) -> Json:
    ops = [op for row in rows for op in row.at(place)]
    for op in ops:
        op["share"] = op["ms"] / float(total) if total else 0.0
    shares = {
        origin: sum(op["share"] for op in ops if op["origin"] == origin) for origin in ORIGINS
    }
    known = [op["energy"] for op in ops if op["energy"] is not None]
    return {
        "ms": float(total),
        "uncertainty": total.uncertainty,
        "origin": total.origin,
        **_energy_of(total),
        "energy_of_known_ops": sum(known) if known else None,
        "origins": {origin: share for origin, share in shares.items() if share},
        "ops": ops,
    }


def _memory(outcome: Outcome, at: Mapping[str, int]) -> Json:
    """Once the last token is there, beside the largest context pass. Of a lone op list only the weights are known."""
    if outcome.footprint is not None:
        end = at["prefix"] + at["osl"] - 1
        most = outcome.price.workload.chunk
        found = outcome.footprint.at(b=at["batch"], s=at["isl"], p=end, most_tokens=most)
        return dict(found.to_json())
    weights = max(
        sum(op.get_weights() for op in ops.ops("context"))
        for ops in stages_of(outcome.source, outcome.layout)
    )
    capacity = int(outcome.db.system.memory_capacity.base * USABLE)
    unknown = ("kv_cache", "activations", "buffers", "total")
    return {
        "weights": weights,
        **dict.fromkeys(unknown),
        "capacity": capacity,
        "fits": None if weights <= capacity else False,
        "verdict": f"the weights alone do not fit by {gib(weights - capacity)}"
        if weights > capacity
        else "unknown: the file does not say what caches and passes hold",
    }


def _mixed(phases: Json, steps: int) -> dict[str, float]:
    """Shares of a request's time by origin."""
    weights = {
        phase: found["ms"] * (steps if phase == "generation" else 1)
        for phase, found in phases.items()
    }
    shares = {
        origin: sum(weights[phase] * phases[phase]["origins"].get(origin, 0.0) for phase in phases)
        for origin in ORIGINS
    }
    total = sum(shares.values())
    return {origin: share / total for origin, share in shares.items() if share}


def _energy(outcome: Outcome, request: PerformanceResult, workload: Workload, at: Any) -> Json:
    """Energy of a request on all GPUs, and per token of its answers: None unless every op has it."""
    if request.energy is None:
        return {**_energy_of(request), "joules_per_token": None}
    shape, layout = workload.shape or (1,), outcome.layout
    tokens = int(numpy.broadcast_to(workload.batch * workload.osl, shape)[at]) * layout.dp
    energy = request.energy * layout.num_gpus / len(outcome.price.stages)
    return {
        **_energy_of(request),
        "energy": energy,
        "joules_per_token": energy * 1e-3 / tokens,
    }


def notes(outcome: Outcome, ops: Sequence[Json]) -> list[str]:
    """What a reader has to know beside the numbers."""
    found = list(outcome.db.notes)
    system, layout = outcome.db.system, outcome.layout
    if outcome.db.mode == "hybrid" and not outcome.db.backend:
        found.append(
            "No backend was named, so no measured table was asked: every time is empirical."
        )
    elif outcome.db.mode == "hybrid" and any(op["origin"] == "empirical" for op in ops):
        lent = outcome.db.borrowed
        for sister, kinds in lent.items():
            names = ", ".join(sorted(kinds))
            found.append(
                f"Rows of {sister}, scaled, answer where {system.id} has none that say more: {names}."
            )
        empirical = {op["op"] for op in ops if op["origin"] == "empirical"}
        if stated := sorted(empirical.difference(*lent.values())):
            found.append(f"Empirical, as no table has their shapes: {', '.join(stated)}.")
    if outcome.db.mode in ("hybrid", "silicon"):
        found += of_sums(outcome.db.backend, outcome.price.sum_errors)
        found += of_other_ops(outcome.source.op_list, outcome.db.backend)
    found += beyond_positions(outcome.source.report.get("max_positions"), outcome.price.workload)
    if not outcome.price.workload.chunk:
        found += beyond_rows(ops)
    found += collected(ops, outcome.source.op_list)
    widest = max((op["params"].get("num_gpus", 1) for op in ops), default=1)
    widest = max(widest, layout.num_gpus if layout.pp > 1 else 1)
    if 0 < system.joins < widest:
        found.append(beyond_servers(system, widest))
    return found + _doubts(
        [op for op in ops if op["origin"] in ORIGINS[: origin_rank("empirical")]]
    )


def chosen(modules: Sequence[Json]) -> list[str]:
    """A line for each phase and kind of module: which sets of ops are priced as what."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for one in modules:
        way = f"{one['op']}, not as its parts" if one["used"] else f"parts, not as {one['op']}"
        why = f": {one['reason'].rstrip('.')}" if one["reason"] else ""
        named = sets.setdefault((one["phase"].capitalize(), way, why), [])
        named.append(f"{one['module']} x{one['count']}" if one["count"] else one["module"])
    return [
        f"{phase}: {', '.join(dict.fromkeys(named))} priced as {way}{why}."
        for (phase, way, why), named in sets.items()
    ]


def _doubts(ops: Sequence[Json]) -> list[str]:
    """Prices that the bound makes doubtful: `python -m perfdb.check` tells the rows that they stand on."""
    found = []
    for words, names in (
        (
            "faster than the speed of light",
            [op["name"] for op in ops if op["achieved"] > FASTEST],
        ),
        (
            f"below {SLOWEST:.0%} of the speed of light",
            [
                op["name"]
                for op in ops
                if op["achieved"] < SLOWEST and op["bound_ms"] > LONG_MS * op["count"]
            ],
        ),
    ):
        if names:
            verb = "is" if len(set(names)) == 1 else "are"
            found.append(f"Doubtful prices: {listed(names)} {verb} {words}.")
    return found
