"""What a model costs to serve: an op list priced by a database, for one workload or for arrays of them.

TTFT is the context pass, or the sum of those that it is cut into (`models.passes`). TPOT is the mean over the
generation steps i = 1..osl-1, each one token per sequence over prefix + isl + i - 1 cached ones. A request is
TTFT + (osl - 1)·TPOT. `docs/conventions.md` has the definitions.

Each op is priced once per distinct workload of its phase: a context pass does not know osl, a generation step knows
batch and cached length alone. The steps of one op err alike, so the mean keeps their mean deviation; ops err apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy
from numpy.typing import NDArray

from models.passes import Passes
from models.steps import Nodes
from models.workload import Points, Workload
from oplib.errors import PerfDataNotAvailableError
from oplib.op import Op
from oplib.oplist import OpList
from perfdb.arrays import Floats, Ints
from perfdb.database import PerfDatabase
from perfdb.performance import PerformanceArray, spread

_NAMED = 3  # ops without data that an error names
_ROWS = 2_000_000  # places of a function of the cached length that are held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class OpPrice:
    """All occurrences of an op in the context passes, or in the mean generation step, at the distinct points of its
    phase."""

    op: Op
    ms: PerformanceArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePrice:
    """The ops of one phase at distinct points, their sum, and the place of each workload among the points."""

    ops: tuple[OpPrice, ...]
    total: PerformanceArray
    place: Ints

    def __call__(self) -> PerformanceArray:
        """The phase at each workload."""
        found: PerformanceArray = self.total[self.place]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePrice:
    """What one pipeline stage runs; `generation` is None where no workload generates."""

    context: PhasePrice
    generation: PhasePrice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Stages in their order, and what follows from them for each workload. Arrays have the shape of the workloads,
    at least one-dimensional."""

    workload: Workload
    stages: tuple[StagePrice, ...]

    @property
    def ttft(self) -> PerformanceArray:
        """ms of the context passes through all stages, one after the other."""
        shape = numpy.broadcast_shapes(self.workload.shape, (1,))
        found: PerformanceArray = spread(_sum([stage.context() for stage in self.stages]), shape)
        return found

    @property
    def tpot(self) -> PerformanceArray:
        """ms of the mean generation step through all stages; 0 where no step runs."""
        found = [stage.generation() for stage in self.stages if stage.generation is not None]
        runs = numpy.atleast_1d(self.workload.steps) > 0
        return _where(runs, _sum(found)) if found else _nothing(runs.shape)

    @property
    def request(self) -> PerformanceArray:
        """ms from the request to its last token: TTFT + (osl - 1)·TPOT."""
        return self._over(self.ttft, self.tpot)

    @property
    def period(self) -> PerformanceArray:
        """ms between requests that leave a full pipeline: the time of its slowest stage, all its passes together."""
        steps = numpy.atleast_1d(self.workload.steps)
        each = [
            self._over(
                stage.context(),
                _nothing(steps.shape)
                if stage.generation is None
                else _where(steps > 0, stage.generation()),
            )
            for stage in self.stages
        ]
        return reduce(_slower, each)

    def _over(self, context: PerformanceArray, step: PerformanceArray) -> PerformanceArray:
        total: PerformanceArray = context + step * numpy.atleast_1d(self.workload.steps)
        return total

    def tokens_per_s_per_gpu(self, *, gpus: int, replicas: int = 1) -> Floats:
        """Tokens of answers per second and GPU, with a batch in each stage of `gpus` GPUs that serve `replicas` times
        `batch` sequences."""
        tokens = replicas * self.workload.batch * self.workload.osl
        rate: Floats = tokens / (self.period.latency * 1e-3) / gpus
        return rate


def price(stages: Sequence[OpList], db: PerfDatabase, workload: Workload) -> Price:
    """The price of a model whose pipeline stages run these op lists, one rank each.

    In mode `silicon` a PerfDataNotAvailableError names the ops without data.
    """
    context = Points.of(
        b=numpy.atleast_1d(workload.batch),
        s=numpy.atleast_1d(workload.isl),
        p=numpy.atleast_1d(workload.prefix),
    )
    ask = _Asker(db)
    priced = [
        StagePrice(
            context=_context(ops.ops("context"), ask, context, workload.chunk),
            generation=_generation(ops.ops("generation"), ask, workload)
            if numpy.max(workload.steps) > 0
            else None,
        )
        for ops in stages
    ]
    ask.raise_missing()
    return Price(workload=workload, stages=tuple(priced))


class _Asker:
    """Prices of ops, and those that could not be had: they are told together."""

    def __init__(self, db: PerfDatabase) -> None:
        self.db = db
        self.missing: dict[str, PerfDataNotAvailableError] = {}

    def __call__(self, op: Op, b: Ints, s: Ints | int, p: Ints | int) -> PerformanceArray:
        shape = numpy.broadcast_shapes(*(numpy.shape(size) for size in (b, s, p)))
        try:
            found = self.db.price(op.kind, op.params, op.dims_at(b=b, s=s, p=p)) * op.count
        except PerfDataNotAvailableError as error:
            self.missing.setdefault(f"{op.name} ({op.op})", error)
            return _nothing(shape)
        whole: PerformanceArray = spread(found, shape)
        return whole

    def raise_missing(self) -> None:
        if not self.missing:
            return
        named = list(self.missing.items())[:_NAMED]
        more = len(self.missing) - len(named)
        told = " ".join(f"{name}: {error.message}" for name, error in named)
        raise PerfDataNotAvailableError(
            f"{len(self.missing)} ops have no data. {told}{f' And {more} more.' if more else ''}",
            named[0][1].hint or "Mode hybrid estimates them.",
        )


def _context(ops: Sequence[Op], ask: _Asker, at: Points, chunk: int) -> PhasePrice:
    passes = Passes.of(**at.sizes, chunk=chunk)
    distinct = Points.of(b=passes.b, s=passes.s, p=passes.p)
    priced = tuple(
        OpPrice(op=op, ms=passes.total(ask(op, *distinct.sizes.values())[distinct.place]))
        for op in ops
    )
    return PhasePrice(ops=priced, total=_sum([op.ms for op in priced]), place=at.place)


def _generation(ops: Sequence[Op], ask: _Asker, workload: Workload) -> PhasePrice:
    """Steps that no workload runs are priced as one, and multiplied by 0 later."""
    at = Points.of(
        b=numpy.atleast_1d(workload.batch),
        first=numpy.atleast_1d(workload.cached),
        steps=numpy.atleast_1d(numpy.maximum(workload.steps, 1)),
    )
    b, first, steps = at.sizes.values()
    batches, row = numpy.unique(b, return_inverse=True)
    last = first + steps - 1
    priced = []
    for op in ops:
        if "p" in op.symbols:
            ms = _mean(op, ask, batches, row=row, first=first, last=last)
        else:
            ms = ask(op, batches, 1, 0)[row]
        priced.append(OpPrice(op=op, ms=ms))
    return PhasePrice(ops=tuple(priced), total=_sum([op.ms for op in priced]), place=at.place)


def _mean(
    op: Op, ask: _Asker, batches: Ints, *, row: Ints, first: Ints, last: Ints
) -> PerformanceArray:
    """The mean step of an op that varies with the cached length, at each point."""
    wide = Nodes.over(first, last, rows=len(batches))
    at_once = max(_ROWS // len(wide.p), 1)
    found = _nothing(row.shape)
    for start in range(0, len(batches), at_once):
        mine = numpy.flatnonzero((row >= start) & (row < start + at_once))
        nodes, asked = _asked(op, ask, batches[start : start + at_once, None], wide)
        where = {"row": row[mine] - start, "first": first[mine], "last": last[mine]}
        latency = nodes.mean(asked.latency, **where)
        found.latency[mine] = latency
        deviation = nodes.mean(asked.uncertainty * asked.latency, **where)
        found.uncertainty[mine] = numpy.divide(
            deviation, latency, out=numpy.zeros_like(latency), where=latency > 0
        )
        found.ranks[mine] = nodes.worst(asked.ranks, **where)
        unknown = numpy.isnan(asked.energy).all()
        found.energy[mine] = numpy.nan if unknown else nodes.mean(asked.energy, **where)
    return found


def _asked(op: Op, ask: _Asker, batches: Ints, nodes: Nodes) -> tuple[Nodes, PerformanceArray]:
    """The op at nodes, and at more of them where it jumps in between: those nodes, and results [batch, node]."""
    found = ask(op, batches, 1, nodes.p)
    while len(more := nodes.jumps(found.latency)):
        extra = ask(op, batches, 1, more)
        order = numpy.argsort(numpy.concatenate([nodes.p, more]))
        nodes = Nodes(p=numpy.concatenate([nodes.p, more])[order])
        found = PerformanceArray(
            numpy.concatenate([found.latency, extra.latency], axis=1)[:, order],
            energy=numpy.concatenate([found.energy, extra.energy], axis=1)[:, order],
            ranks=numpy.concatenate([found.ranks, extra.ranks], axis=1)[:, order],
            uncertainty=numpy.concatenate([found.uncertainty, extra.uncertainty], axis=1)[:, order],
        )
    return nodes, found


def _nothing(shape: tuple[int, ...]) -> PerformanceArray:
    """Results that take no time."""
    return PerformanceArray(
        numpy.zeros(shape),
        energy=numpy.zeros(shape),
        ranks=numpy.zeros(shape, dtype=numpy.int8),
        uncertainty=numpy.zeros(shape),
    )


def _where(runs: NDArray[numpy.bool_], found: PerformanceArray) -> PerformanceArray:
    """The results where something runs; no time and the best origin elsewhere."""
    if runs.all():
        return found
    return PerformanceArray(
        numpy.where(runs, found.latency, 0.0),
        energy=numpy.where(runs, found.energy, 0.0),
        ranks=numpy.where(runs, found.ranks, 0).astype(numpy.int8),
        uncertainty=numpy.where(runs, found.uncertainty, 0.0),
    )


def _sum(parts: Sequence[PerformanceArray]) -> PerformanceArray:
    """Results added up, the errors of the parts as independent ones."""
    shape = numpy.broadcast_shapes(*(part.shape for part in parts))
    latency, variance, energy = (numpy.zeros(shape) for _ in range(3))
    ranks = numpy.zeros(shape, dtype=numpy.int8)
    for part in parts:
        latency += part.latency
        variance += numpy.square(part.latency * part.uncertainty)
        energy += part.energy
        numpy.maximum(ranks, part.ranks, out=ranks)
    relative = numpy.divide(
        numpy.sqrt(variance), latency, out=numpy.zeros(shape), where=latency > 0
    )
    return PerformanceArray(latency, energy=energy, ranks=ranks, uncertainty=relative)


def _slower(one: PerformanceArray, other: PerformanceArray) -> PerformanceArray:
    chosen = one.latency >= other.latency
    return PerformanceArray(
        numpy.where(chosen, one.latency, other.latency),
        energy=numpy.where(chosen, one.energy, other.energy),
        ranks=numpy.where(chosen, one.ranks, other.ranks),
        uncertainty=numpy.where(chosen, one.uncertainty, other.uncertainty),
    )
