"""Aligning one sub-module at one workload: run it, run its ops alone, price them, and set the three side by side."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from collector.align import running
from collector.align.alone import CALLS, Alone, Standalone
from collector.align.binding import bound
from collector.align.kernels import Compared, Kernel, attribute, compare, kernels_of
from collector.align.outcome import OpOutcome, Outcome, total
from collector.align.rested import RestedBench, steady, under_load
from collector.align.settings import Settings
from collector.align.workloads import Workload
from collector.timing import Limits
from collector.turn import compiling_without
from collector.worker import one_line
from oplib.case import Case
from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from oplib.kernels import registry
from oplib.kernels.binding import REFUSED
from oplib.kernels.variant import Variant
from oplib.op import Op
from perfdb.backends import lowering_of
from perfdb.database import PerfDatabase
from perfdb.speed_of_light import sides_ms
from tracer import analysis
from tracer.quantization import QuantScheme
from tracer.submodules import SubModule, submodules_of
from tracer.trace import PHASES

Json = dict[str, Any]  # Any: an object that becomes JSON
BACKEND = "torch"  # whose tables price
LOWERING = lowering_of(BACKEND)


def parts_of(model: str, **source: Any) -> list[SubModule]:
    """The sub-modules of a model with weights as its code makes them: what a checkpoint quantises is not."""
    traced = analysis.trace_model(model, **source)
    return submodules_of(replace(traced, scheme=QuantScheme()))


def chosen_parts(parts: list[SubModule], wanted: list[str]) -> list[SubModule]:
    """Those of a role, of a path or of the last names of a path that is in `wanted`, in the model's order."""
    return [
        part for part in parts
        if any(one == part.role or part.name == one or part.name.endswith("." + one) for one in wanted)
    ]  # fmt: skip


def distinct(parts: list[SubModule]) -> list[SubModule]:
    """Without parts that do in one layer what another one does in another: same class, same ops."""
    found: dict[str, SubModule] = {}
    for part in parts:
        ops = [
            (op.op, op.params, dict(op.dims), op.count)
            for phase in PHASES
            for op in part.ops(phase, LOWERING)
        ]
        found.setdefault(repr((part.role, part.module_class, ops)), part)
    return list(found.values())


def align(
    part: SubModule,
    phase: str,
    workload: Workload,
    settings: Settings,
    standalone: Standalone,
    db: PerfDatabase,
) -> Outcome:
    """The row of a part at a workload. What fails in it is told in the row.

    The part runs first: its ops alone get inputs that it recorded.
    """
    ops = part.ops(phase, LOWERING)
    cases = [_case(op, workload) for op in ops]
    chosen = {op.op: settings.variants.get(op.op) for op in ops}
    outcome = Outcome(
        model=settings.model, submodule=part.name, role=part.role, phase=phase, workload=str(workload), ops=()
    )  # fmt: skip
    slots = _slots([standalone.variant(case, chosen[case.op]) for case in cases])
    standalone.recorded.clear()
    try:
        outcome = _ran(part, outcome, slots, workload, settings, standalone, db)
    except Exception as error:  # noqa: BLE001 - becomes the row's reason
        outcome = replace(outcome, failed=one_line(error))
        if settings.debug:
            traceback.print_exception(error)
    kernels = outcome.kernels
    standalone.recover()
    gc.collect()  # the part and its compiled code know each other
    standalone.bench.release()
    measure = standalone.measure if settings.time else standalone.compile
    with settings.turn, compiling_without(settings.turn):
        alone = [measure(case, chosen[case.op]) for case in cases]
    rows = _rows(ops, workload, alone, kernels, db)
    return replace(
        outcome, ops=rows, predicted=total(row.predicted for row in rows),
        compared=_compared(ops, alone, kernels),
    )  # fmt: skip


def predicted(ops: tuple[Op, ...], workload: Workload, db: PerfDatabase) -> float | None:
    """The price of the ops one after the other, in ms; None where one has none."""
    return total(_price(op, workload, db)[0] for op in ops)


def _ran(
    part: SubModule, outcome: Outcome, slots: Mapping[str, Variant], workload: Workload, settings: Settings,
    standalone: Standalone, db: PerfDatabase,
) -> Outcome:  # fmt: skip
    """The part compiled and timed; a kernel function that a slot cannot stand for stays transformers' own."""
    ops = part.ops(outcome.phase, LOWERING)
    try:
        with bound(
            part.source.traced.model, slots, own_attention=_attention_unknown(ops, slots),
            recorded=standalone.recorded,
        ) as names:  # fmt: skip
            run = running.start(part, outcome.phase, workload.sizes, settings, names)
            standalone.recorded.open = False
            outcome = replace(outcome, difference=run.difference, note=run.note)
            if not settings.time:
                return outcome
            floor = _floor(ops, workload, db)
            return timed(outcome, run, standalone.bench, settings, floor)
    except InvalidInputError as error:
        if not error.message.startswith(REFUSED):
            raise
        refused = _to_give_up(slots)
        if not refused:
            raise
        rest = {name: variant for name, variant in slots.items() if name not in refused}
        again = _ran(part, outcome, rest, workload, settings, standalone, db)
        told = f"{', '.join(refused)} as transformers has it: {error.message}"
        return replace(again, note="; ".join(filter(None, (told, again.note))))


def timed(
    outcome: Outcome,
    run: running.Running,
    bench: RestedBench,
    settings: Settings,
    floor_ms: float = 0.0,
) -> Outcome:
    """The row with the times of what runs, and its kernels at rest, as those of its ops."""
    limits = Limits(seconds=settings.seconds, floor_ms=floor_ms)
    with settings.turn:
        rested = steady(run.make, bench, limits)
        replay = bench.bind(run.make(1).runs, CALLS, graph=rested.graph)
        kernels = kernels_of(bench, replay, CALLS)
        timing = under_load(run.make, bench, limits)
    return replace(
        outcome, measured=timing.latency, rested=rested.latency, rested_spread=rested.spread, graph=timing.graph,
        timing=timing.to_json(),
        note="; ".join(filter(None, (outcome.note, timing.note))), kernels=kernels,
    )  # fmt: skip


def _floor(ops: tuple[Op, ...], workload: Workload, db: PerfDatabase) -> float:
    """ms that the part takes at least: work at peak. What a cache may hold is left out."""
    found = 0.0
    for op in ops:
        dims = op.dims_at(**workload.sizes)
        compute = sides_ms(op.kind, op.params, dims, db.system)[0]
        found += float(compute) * op.count
    return found


def _case(op: Op, workload: Workload) -> Case:
    dims = {name: int(size) for name, size in op.dims_at(**workload.sizes).items()}
    return Case(op=op.op, params=dict(op.params), dims=dims)


def _slots(found: list[Variant | str]) -> dict[str, Variant]:
    """The variants that models can be bound to, by slot."""
    variants = [one for one in found if isinstance(one, Variant)]
    return {v.slot: v for v in variants if registry.slot(v.slot).bind is not None}


def _attention_unknown(ops: tuple[Op, ...], slots: Mapping[str, Variant]) -> bool:
    return any(op.kind.role == "attention" and op.op not in slots for op in ops)


def _to_give_up(slots: Mapping[str, Variant]) -> list[str]:
    """Which slots a part is run without after one refused its call: kernel functions first, then attention."""
    bindings = {name: registry.slot(name).bind for name in slots}
    found = {name: bind(slots[name]) for name, bind in bindings.items() if bind is not None}
    functions = [name for name, binding in found.items() if binding.functions]
    return functions or [name for name, binding in found.items() if binding.attention]


def _rows(
    ops: tuple[Op, ...],
    workload: Workload,
    alone: list[Alone],
    kernels: tuple[Kernel, ...],
    db: PerfDatabase,
) -> tuple[OpOutcome, ...]:
    inside: list[list[Kernel]] = [[] for _ in ops]
    if kernels:
        expected = [
            [k for _ in range(op.count) for k in one.kernels]
            for op, one in zip(ops, alone, strict=True)
        ]
        inside, _ = attribute(expected, kernels)
    rows = []
    for op, one, own in zip(ops, alone, inside, strict=True):
        price, origin = _price(op, workload, db)
        rows.append(
            OpOutcome(
                op=op.op,
                name=op.name,
                count=op.count,
                variant=one.variant,
                predicted=price,
                origin=origin,
                standalone=None if one.latency is None else one.latency * op.count,
                measured=sum(k.us for k in own) / 1e3 if own else None,
                reason=one.reason,
            )
        )
    return tuple(rows)


def _price(op: Op, workload: Workload, db: PerfDatabase) -> tuple[float | None, str]:
    try:
        found = db.query(op, **workload.sizes)
    except PerfDataNotAvailableError as error:
        return None, error.message
    return float(found), str(found.origin)


def _compared(
    ops: tuple[Op, ...], alone: list[Alone], kernels: tuple[Kernel, ...]
) -> Compared | None:
    """None where a side has no kernels."""
    apart = [
        k for op, one in zip(ops, alone, strict=True) for _ in range(op.count) for k in one.kernels
    ]
    return compare(apart, kernels) if apart and kernels else None
