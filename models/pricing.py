"""What a model costs to serve: an op list priced by a database, for one workload or for arrays of them.

TTFT is the context pass, or the sum of those that it is cut into (`models.passes`). TPOT is the mean over the
generation steps i = 1..osl-1, each one token per sequence over prefix + isl + i - 1 cached ones. A request is
TTFT + (osl - 1)·TPOT. `docs/conventions.md` has the definitions.

Each op is priced once per distinct workload of its phase: a context pass does not know osl, a generation step knows
batch and cached length alone. The steps of one op err alike, so the mean keeps their mean deviation; ops err apart.
Where tables have a whole module, it takes the place of its parts (`models.modules`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce

import numpy

from models.choices import CHOICES
from models.modules import Alternative, Ask, alternatives
from models.passes import Passes
from models.steps import Nodes
from models.sums import Mask, no_time, only_where, slower, summed, vaguer
from models.workload import Points, Workload
from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from oplib.op import Op
from oplib.oplist import PHASES, OpList
from perfdb.arrays import Floats, Ints
from perfdb.backends import sum_error
from perfdb.database import PerfDatabase
from perfdb.performance import PerformanceArray, spread

_NAMED = 3  # ops without data that an error names
_ROWS = 2_000_000  # places of a function of the cached length that are held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class OpPrice:
    """All occurrences of an op in the context passes, or in the mean generation step, at the distinct points of its
    phase.

    `used` says at which of them, where it is not at all: elsewhere a module stands for the op, or its parts for it,
    and it takes no time.
    """

    op: Op
    ms: PerformanceArray
    used: Mask | None = None

    def at(self, place: int) -> bool:
        """Whether the op is what is priced at a point."""
        return self.used is None or bool(self.used[place])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModulePrice:
    """A set of ops that a module may stand for: `parts` by name, and what they take together at every point, None where
    one of them has no price."""

    module: Alternative
    parts: tuple[str, ...]
    parts_ms: PerformanceArray | None

    def at(self, place: int) -> bool:
        """Whether the module is what is priced at a point."""
        used = self.module.used
        return bool(used[place if len(used) > 1 else 0])


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePrice:
    """The ops of one phase at distinct points, their sum, and the place of each workload among the points."""

    ops: tuple[OpPrice, ...]
    modules: tuple[ModulePrice, ...]
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
    at least one-dimensional. `sum_errors` are those of `perfdb.backends`, by phase: what a sum is off beside its ops.
    """

    workload: Workload
    stages: tuple[StagePrice, ...]
    sum_errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def ttft(self) -> PerformanceArray:
        """ms of the context passes through all stages, one after the other."""
        shape = numpy.broadcast_shapes(self.workload.shape, (1,))
        found = summed([stage.context() for stage in self.stages])
        total: PerformanceArray = spread(vaguer(found, self.sum_errors.get("context", 0.0)), shape)
        return total

    @property
    def tpot(self) -> PerformanceArray:
        """ms of the mean generation step through all stages; 0 where no step runs."""
        found = [stage.generation() for stage in self.stages if stage.generation is not None]
        runs = numpy.atleast_1d(self.workload.steps) > 0
        if not found:
            return no_time(runs.shape)
        return only_where(runs, vaguer(summed(found), self.sum_errors.get("generation", 0.0)))

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
                no_time(steps.shape)
                if stage.generation is None
                else only_where(steps > 0, stage.generation()),
            )
            for stage in self.stages
        ]
        return reduce(slower, each)

    def _over(self, context: PerformanceArray, step: PerformanceArray) -> PerformanceArray:
        total: PerformanceArray = context + step * numpy.atleast_1d(self.workload.steps)
        return total

    def tokens_per_s_per_gpu(self, *, gpus: int, replicas: int = 1) -> Floats:
        """Tokens of answers per second and GPU, with a batch in each stage of `gpus` GPUs that serve `replicas` times
        `batch` sequences."""
        tokens = replicas * self.workload.batch * self.workload.osl
        rate: Floats = tokens / (self.period.latency * 1e-3) / gpus
        return rate


def price(
    stages: Sequence[OpList], db: PerfDatabase, workload: Workload, *, modules: str = "auto"
) -> Price:
    """The price of a model whose pipeline stages run these op lists, one rank each.

    `modules` is one of CHOICES. In mode `silicon` a PerfDataNotAvailableError names the ops without data.
    """
    if modules not in CHOICES:
        raise InvalidInputError(f"modules is {modules!r}.", f"It takes {', '.join(CHOICES)}.")
    context = Points.of(
        b=numpy.atleast_1d(workload.batch),
        s=numpy.atleast_1d(workload.isl),
        p=numpy.atleast_1d(workload.prefix),
    )
    ask = _Asker(db, modules)
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
    return Price(workload=workload, stages=tuple(priced), sum_errors=sum_errors(db))


def sum_errors(db: PerfDatabase) -> dict[str, float]:
    """What is known of sums of prices that stand on tables, by phase."""
    if db.mode not in ("silicon", "hybrid"):
        return {}
    found = {phase: sum_error(db.backend, phase) for phase in PHASES}
    return {phase: error for phase, error in found.items() if error is not None}


class _Asker:
    """Prices of ops, and those that could not be had: they are told together."""

    def __init__(self, db: PerfDatabase, modules: str) -> None:
        self.db, self.modules = db, modules
        self.missing: dict[str, PerfDataNotAvailableError] = {}

    def __call__(self, op: Op, b: Ints, s: Ints | int, p: Ints | int) -> PerformanceArray:
        shape = numpy.broadcast_shapes(*(numpy.shape(size) for size in (b, s, p)))
        found = self.db.price(op.kind, op.params, op.dims_at(b=b, s=s, p=p)) * op.count
        whole: PerformanceArray = spread(found, shape)
        return whole

    def phase(self, ops: Sequence[Op], phase: str, ask: Ask, place: Ints) -> PhasePrice:
        """The ops of a phase, `ask` being the price of one, and modules in the place of sets of them."""
        sets = alternatives(ops, phase, ask, choice=self.modules, db=self.db)
        replaced: dict[int, Mask] = {i: one.used for one in sets for i in one.parts}
        whole: dict[int, PerformanceArray | None] = {}
        priced: list[OpPrice] = []
        for i, op in enumerate(ops):
            priced += [_module(one) for one in sets if one.used.any() and one.parts[0] == i]
            gone = replaced.get(i)
            try:
                ms: PerformanceArray | None = ask(op)
            except PerfDataNotAvailableError as error:
                ms = None
                if gone is None or not gone.all():
                    self.missing.setdefault(f"{op.name} ({op.op})", error)
            whole[i] = ms
            if gone is None or not gone.all():
                priced.append(_part(op, ms if ms is not None else no_time((1,)), gone))
        modules = [
            ModulePrice(
                module=one,
                parts=tuple(ops[i].name for i in one.parts),
                parts_ms=_together([whole[i] for i in one.parts]),
            )
            for one in sets
        ]
        return PhasePrice(
            ops=tuple(priced),
            modules=tuple(modules),
            total=summed([op.ms for op in priced]),
            place=place,
        )

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


def _module(one: Alternative) -> OpPrice:
    assert one.op is not None
    assert one.ms is not None
    return OpPrice(op=one.op, ms=only_where(one.used, one.ms), used=one.used)


def _part(op: Op, ms: PerformanceArray, gone: Mask | None) -> OpPrice:
    """An op as far as no module stands for it."""
    if gone is None or not gone.any():
        return OpPrice(op=op, ms=ms)
    return OpPrice(op=op, ms=only_where(~gone, ms), used=~gone)


def _together(parts: Sequence[PerformanceArray | None]) -> PerformanceArray | None:
    known = [part for part in parts if part is not None]
    return summed(known) if parts and len(known) == len(parts) else None


def _context(ops: Sequence[Op], ask: _Asker, at: Points, chunk: int) -> PhasePrice:
    passes = Passes.of(**at.sizes, chunk=chunk)
    distinct = Points.of(b=passes.b, s=passes.s, p=passes.p)

    def each(op: Op) -> PerformanceArray:
        return passes.total(ask(op, *distinct.sizes.values())[distinct.place])

    return ask.phase(ops, "context", each, at.place)


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

    def mean(op: Op) -> PerformanceArray:
        if "p" in op.symbols:
            return _mean(op, ask, batches, row=row, first=first, last=last)
        found: PerformanceArray = ask(op, batches, 1, 0)[row]
        return found

    return ask.phase(ops, "generation", mean, at.place)


def _mean(
    op: Op, ask: _Asker, batches: Ints, *, row: Ints, first: Ints, last: Ints
) -> PerformanceArray:
    """The mean step of an op that varies with the cached length, at each point."""
    wide = Nodes.over(first, last, rows=len(batches))
    at_once = max(_ROWS // len(wide.p), 1)
    found = no_time(row.shape)
    for start in range(0, len(batches), at_once):
        mine = numpy.flatnonzero((row >= start) & (row < start + at_once))
        nodes, asked = _asked(op, ask, batches[start : start + at_once, None], wide)
        at, low, high = row[mine] - start, first[mine], last[mine]
        mean = asked.alike(
            partial(nodes.mean, row=at, first=low, last=high),
            partial(nodes.worst, row=at, first=low, last=high),
        )
        for name in PerformanceArray.__slots__:
            getattr(found, name)[mine] = getattr(mean, name)
    return found


def _inserted(held: Floats, more: Floats, *, order: Ints) -> Floats:
    found: Floats = numpy.concatenate([held, more], axis=1)[:, order]
    return found


def _asked(op: Op, ask: _Asker, batches: Ints, nodes: Nodes) -> tuple[Nodes, PerformanceArray]:
    """The op at nodes, and at more of them where it jumps in between: those nodes, and results [batch, node]."""
    found = ask(op, batches, 1, nodes.p)
    while len(more := nodes.jumps(found.latency)):
        extra = ask(op, batches, 1, more)
        order = numpy.argsort(numpy.concatenate([nodes.p, more]))
        nodes = Nodes(p=numpy.concatenate([nodes.p, more])[order])
        found = found.each(partial(_inserted, order=order), extra)
    return nodes, found
