"""Coverage: which points of an op list the tables of a backend hold, and the plan that measures the others.

Asked are the points of the serving envelope (`tracer.envelope`) and those of the report's own workload. A point is
covered where the tables have it (exact) or measured rows around it in every coordinate (interpolable). It is not where
it lies beyond them (outside) or where no row has its parameters (missing). Nothing is covered by a formula: an op whose
kind the backend has no table of is missing, and the share that such kinds have of the time is reported. Where a table
has the whole module that an op is part of (`tracer.covered_modules`), the op is asked for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy

from oplib.case import Case, Plan
from oplib.op import Op
from oplib.oplist import OpList
from oplib.registry import kind as op_kind
from perfdb.database import COVERAGES, PerfDatabase
from perfdb.foreign import Shelf, serving_version
from perfdb.performance import PerformanceResult
from perfdb.speed_of_light import bound_ms
from perfdb.tables import Table
from tracer.asked import Asked, ask
from tracer.covered_modules import Covered, ask_part, covered_modules
from tracer.envelope import Envelope
from tracer.report.view import phase_workload

_FASTEST = 0.95  # of the bound: what clocks above the stated ones may explain
MEASURED = ("measured", "interpolated")  # origins of prices that rest on rows around them

Json = dict[str, Any]  # Any: an object that becomes JSON


@dataclass(slots=True, kw_only=True)
class Point:
    """A point that no table covers: its case, how it fails, what is nearest, and which ops need it."""

    case: Case
    coverage: str
    nearest: str
    needed_by: dict[str, None] = field(default_factory=dict)  # a set that keeps the order


def check(report: Json, db: PerfDatabase) -> Json:
    """The `coverage` object of a report; nothing in the report is changed."""
    op_list = OpList.from_json(report["op_list"])
    envelope = Envelope.of(report, db.system.memory_capacity.base)
    lacking: dict[tuple[Any, ...], Point] = {}  # Any: parameter values and sizes
    rows: list[Json] = []
    modules: list[Json] = []
    for phase, ops in op_list.phases.items():
        at = phase_workload(report, phase)
        workloads = envelope.workloads(phase)
        answers: dict[tuple[Any, ...], Asked] = {}  # layers repeat ops; Any: values of parameters
        sets = covered_modules(ops, phase, db, workloads, at)
        within = {i: one for one in sets for i in one.module.parts}
        modules += [_module_row(one, ops, phase) for one in sets]
        for i, op in enumerate(ops):
            module = within.get(i)
            inside = () if module is None else tuple(module.module.op.params.values())
            key = (op.op, *op.params.values(), *op.dims.items(), *inside)
            if key not in answers:
                answers[key] = (
                    ask(op, db, workloads, at)
                    if module is None
                    else ask_part(op, module, db, workloads, at)
                )
            asked = answers[key]
            label = " ".join(part for part in (phase, op.layer, op.name) if part)
            _collect(op, label, asked, db, lacking)
            rows.append(_row(op, phase, asked, module))
    missing = sorted(lacking.values(), key=lambda p: (-p.case.bound_ms, p.case.case_id))
    return {
        "checked": True,
        "system": db.system.id,
        "backend": db.backend,
        "version": _version(db),
        "envelope": envelope.to_json(),
        "tables": {name: str(t.path) for name, t in _tables(op_list, db, modules).items()},
        "phases": {phase: _total(_priced(rows, modules), phase) for phase in op_list.phases},
        "ops": rows,
        "modules": modules,
        "unmeasured_kinds": _unmeasured(op_list, db, rows, modules),
        "missing": [_missing(point, db) for point in missing],
        "notes": [*db.notes, *_too_fast(_priced(rows, modules)), *_standing(modules)],
    }


def situation(report: Json) -> str:
    """S1 where the tables cover every point of every op, else S2; S3 as long as primitives are unknown."""
    if report["unsupported"]:
        return "S3"
    return "S2" if report["coverage"]["missing"] else "S1"


def plan(report: Json) -> Plan:
    """The cases that, once measured, make an S2 report S1: the longest first.

    Left out is what the GPU's memory does not hold, which only the report's own workload asks for.
    """
    found = report["coverage"]
    cases = [
        Case.from_json({k: item[k] for k in _CASE}) for item in found["missing"] if item["fits"]
    ]
    where = {name: found[name] for name in ("system", "backend", "version")}
    return Plan(model=report["model"], cases=tuple(cases), **where)


_CASE = ("case_id", "op", "params", "dims", "bound_ms", "bytes", "reason", "needed_by")


def _collect(
    op: Op,
    label: str,
    asked: Asked,
    db: PerfDatabase,
    lacking: dict[tuple[Any, ...], Point],
) -> None:
    """Add the points of an op that no table covers; points that one row answers are one."""
    kind, params = op.kind, asked.entry.params
    places = numpy.flatnonzero(asked.ranks >= COVERAGES.index("outside"))
    if not len(places):
        return
    dims = {name: sizes[places] for name, sizes in asked.dims.items()}
    shared = tuple(value for name, value in params.items() if name not in kind.immaterial)
    sizes = {name: column.astype(float) for name, column in dims.items()}
    bounds = numpy.broadcast_to(bound_ms(kind, params, sizes, db.system), len(places))
    moved = numpy.broadcast_to(kind.bytes(params, sizes), len(places))
    for i, place in enumerate(places):
        at = {name: int(column[i]) for name, column in dims.items()}
        key = (kind.name, shared, *at.items())
        if key not in lacking:
            case = Case(
                op=kind.name,
                params=params,
                dims=at,
                bound_ms=float(bounds[i]),
                bytes=int(moved[i]),
                reason=asked.reason,
            )
            coverage = COVERAGES[int(asked.ranks[place])]
            lacking[key] = Point(case=case, coverage=coverage, nearest=asked.nearest)
        lacking[key].needed_by[label] = None


def _missing(point: Point, db: PerfDatabase) -> Json:
    case = replace(point.case, needed_by=tuple(point.needed_by))
    return {
        **case.to_json(),
        "coverage": point.coverage,
        "nearest": point.nearest,
        "fits": case.bytes <= db.system.memory_capacity.base,
    }


def _row(op: Op, phase: str, asked: Asked, module: Covered | None = None) -> Json:
    """How one op is covered, and what one occurrence takes at the report's workload.

    `module` is the kind of the module that is asked in its place, `covers` at which workloads: all, some, or none, and
    `stands` whether it is at the report's.
    """
    counts = Counter(COVERAGES[int(rank)] for rank in asked.ranks)
    return {
        "phase": phase,
        "op": op.op,
        "name": op.name,
        "layer": op.layer,
        "count": op.count,
        "coverage": asked.worst,
        "points": {name: counts[name] for name in COVERAGES},
        "at_workload": COVERAGES[int(asked.ranks[-1])],
        "ms": float(asked.price),
        "bound_ms": asked.bound_ms,
        "origin": asked.price.origin,
        "uncertainty": asked.price.uncertainty,
        "reason": asked.reason,
        "nearest": asked.nearest,
        "module": "" if module is None else module.module.op.op,
        "covers": "none" if module is None else "all" if module.whole else "some",
        "stands": module is not None and module.own,
    }


def _module_row(covered: Covered, ops: Sequence[Op], phase: str) -> Json:
    """As `_row`, of a module that takes the place of ops where `stands` is true at the report's workload."""
    op = covered.module.op
    return {
        **_row(op, phase, covered.asked, covered),
        "params": dict(op.params),
        "parts": [ops[i].name for i in covered.module.parts],
        "workloads": len(covered.inside),
        "answered": int(covered.inside.sum()),
    }


def _priced(rows: list[Json], modules: list[Json]) -> list[Json]:
    """What the price at the report's workload consists of: modules in the place of their parts."""
    return [
        *(row for row in rows if not row["stands"]),
        *(one for one in modules if one["stands"]),
    ]


def _standing(modules: list[Json]) -> list[str]:
    """What a reader has to know of modules that are asked in the place of ops."""
    found = {
        f"{one['phase']}: {one['op']} stands for the {len(one['parts'])} ops of {one['name']}: measured whole at "
        f"{one['answered']} of {one['workloads']} workloads of the envelope; there its ops need no rows"
        for one in modules
    }
    return sorted(found)


def _total(rows: list[Json], phase: str) -> Json:
    """What a phase takes, and how much of it rests on measured rows around."""
    chosen = [row for row in rows if row["phase"] == phase]
    total: Any = PerformanceResult(0.0)  # Any: sums of results are results
    for row in chosen:
        one = PerformanceResult(row["ms"], origin=row["origin"], uncertainty=row["uncertainty"])
        total = total + one * row["count"]
    measured = sum(row["ms"] * row["count"] for row in chosen if row["origin"] in MEASURED)
    return {
        "ms": float(total),
        "bound_ms": sum(row["bound_ms"] * row["count"] for row in chosen),
        "origin": total.origin,
        "uncertainty": total.uncertainty,
        "measured_share": measured / float(total) if total else 0.0,
    }


def _too_fast(rows: list[Json]) -> list[str]:
    """Ops that the tables say are faster than the speed of light: rows or an op of which one is wrong."""
    found = {
        f"{row['op']}: measured at {row['ms'] / row['bound_ms']:.2f} of the speed of light; check these rows"
        for row in rows
        if row["origin"] in MEASURED and row["ms"] < row["bound_ms"] * _FASTEST
    }
    return sorted(found)


def _unmeasured(
    op_list: OpList, db: PerfDatabase, rows: list[Json], modules: list[Json]
) -> list[Json]:
    """The kinds that the backend has no table of, and what share of each phase is theirs; not those that modules of
    the tables stand for wherever they are."""
    kinds = {op.op: op.kind for ops in op_list.phases.values() for op in ops}
    priced = _priced(rows, modules)
    found = []
    for name, kind in kinds.items():
        table = db.table(kind)
        mine = [row for row in rows if row["op"] == name and row["covers"] != "all"]
        if isinstance(table, Table) or not mine:
            continue
        found.append(
            {
                "op": name,
                "reason": table,
                "ops": len(mine),
                "bound_share": {p: _share(priced, p, name, "bound_ms") for p in op_list.phases},
                "time_share": {p: _share(priced, p, name, "ms") for p in op_list.phases},
            }
        )
    return found


def _share(rows: list[Json], phase: str, op: str, of: str) -> float:
    mine = sum(r[of] * r["count"] for r in rows if r["phase"] == phase and r["op"] == op)
    total = sum(r[of] * r["count"] for r in rows if r["phase"] == phase)
    return mine / total if total else 0.0


def _tables(op_list: OpList, db: PerfDatabase, modules: list[Json]) -> dict[str, Table]:
    kinds = {op.op: op.kind for ops in op_list.phases.values() for op in ops}
    kinds |= {one["op"]: op_kind(one["op"]) for one in modules}
    found = {name: db.table(kind) for name, kind in kinds.items()}
    return {name: table for name, table in found.items() if isinstance(table, Table)}


def _version(db: PerfDatabase) -> str:
    """The version that tables were read of first; `tables` names the file of each kind."""
    shelf = Shelf.of(system=db.system.id, backend=db.backend, version=db.version, data=db.data)
    return shelf.version


def open_database(
    system: str, backend: str, *, version: str = "", data: Path | None = None
) -> PerfDatabase:
    """The tables of a backend on a system; InvalidInputError says what there is where they are not."""
    db = PerfDatabase.load(system=system, backend=backend, version=version, data=data)
    serving_version(system, backend, version=version, data=data)
    return db
