"""Which workloads of the envelope the tables answer for a whole module, so that its parts need no rows there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy

from oplib.op import Op
from perfdb.database import COVERAGES, PerfDatabase
from perfdb.modules import VAGUE, Module, find_modules
from perfdb.performance import Ranks
from tracer.asked import Asked, Mask, ask
from tracer.envelope import Ints

_BETWEEN = COVERAGES.index("interpolable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """A module that a table has: the workloads `inside` which its parts need no rows, and whether `own`, the report's
    workload, is one of them; `asked` is what the tables say of it at the report's workload."""

    module: Module
    asked: Asked
    inside: Mask
    own: bool

    @property
    def whole(self) -> bool:
        """Whether the module answers at every workload."""
        return bool(self.own and self.inside.all())


def covered_modules(
    ops: Sequence[Op],
    phase: str,
    db: PerfDatabase,
    workloads: Mapping[str, Ints],
    at: Mapping[str, int],
) -> list[Covered]:
    """The modules of a phase that the tables answer for at some workload, one for each set of ops."""
    found = []
    for candidates in find_modules(ops, phase):
        tried = [_covered(module, db, workloads, at) for module in candidates.found]
        best = max(tried, key=lambda one: int(one.inside.sum()) + one.own, default=None)
        if best is not None and (best.own or best.inside.any()):
            found.append(best)
    return found


def _covered(
    module: Module, db: PerfDatabase, workloads: Mapping[str, Ints], at: Mapping[str, int]
) -> Covered:
    op = module.op
    own = {name: numpy.array([size]) for name, size in at.items()}
    return Covered(
        module=module,
        asked=ask(op, db, own, at),
        inside=_answered(op, db, workloads),
        own=bool(_answered(op, db, own)[0]),
    )


def _answered(op: Op, db: PerfDatabase, workloads: Mapping[str, Ints]) -> Mask:
    """At which workloads measured rows, or rows around them that say enough, answer for the op."""
    dims = op.dims_at(**workloads)
    sizes = {name: int(numpy.ravel(size)[0]) for name, size in dims.items()}
    response = db.entry(op.kind, op.params, sizes).latency
    shape = workloads["b"].shape
    if response is None:
        return numpy.zeros(shape, dtype=bool)
    ranks: Ranks = numpy.broadcast_to(response.ranks(dims), shape)
    answered = ranks <= _BETWEEN
    if answered.any():
        inside = {name: numpy.broadcast_to(size, shape)[answered] for name, size in dims.items()}
        answered[answered] = numpy.expm1(response.at(inside)[1]) <= VAGUE
    return answered


def ask_part(
    op: Op,
    covered: Covered,
    db: PerfDatabase,
    workloads: Mapping[str, Ints],
    at: Mapping[str, int],
) -> Asked:
    """As `ask`, of an op inside a module: at the workloads that the module does not answer, and at the report's own,
    where the module's answer counts if it has one."""
    left = {name: sizes[~covered.inside] for name, sizes in workloads.items()}
    if covered.inside.all():
        left = {name: numpy.array([size]) for name, size in at.items()}
    asked = ask(op, db, left, at)
    if not covered.own:
        return asked
    ranks = asked.ranks.copy()
    ranks[-1] = covered.asked.ranks[-1]
    outside = bool((ranks > _BETWEEN).any())
    return replace(
        asked,
        ranks=ranks,
        reason=asked.reason if outside else "",
        nearest=asked.nearest if outside else "",
    )
