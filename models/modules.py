"""Which sets of ops of a list are priced as the module that they are, and what they cost either way.

A set is priced as the module (`perfdb.modules`) at those workloads at which the tables have it, measured or between
measured rows that say enough of it, and as its parts at all others: never both. Under `always` the module is priced in
every mode, as far as it has a price; under `never` no set is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from models.sums import Mask
from oplib.errors import PerfDataNotAvailableError
from oplib.op import Op
from perfdb.database import PerfDatabase
from perfdb.modules import VAGUE, Candidates, Module, find_modules
from perfdb.performance import PerformanceArray, origin_rank

_TABLED = ("silicon", "hybrid")  # modes that ask tables
_BETWEEN = origin_rank("interpolated")  # the worst origin at which a table is said to have a module
_BEYOND = origin_rank("extrapolated")
BEYOND, ABSENT = "its rows do not reach so far", "no row is of such a module"
_UNPRICED = 100  # worse than any origin

Ask = Callable[[Op], PerformanceArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A set of ops, and the module `op` that takes their place at the points where `used` is true.

    `parts` are places in the list. `ms` is the module's price, None where it has none; `op` is None where the set is no
    module. Where it is used nowhere, `reason` says why.
    """

    found: Candidates
    op: Op | None = None
    parts: tuple[int, ...] = ()
    used: Mask
    ms: PerformanceArray | None = None
    reason: str = ""

    @property
    def worst(self) -> int:
        """The worst origin of the module's price, as a rank."""
        return _UNPRICED if self.ms is None else int(self.ms.ranks.max())


def alternatives(
    ops: Sequence[Op], phase: str, ask: Ask, *, choice: str, db: PerfDatabase
) -> list[Alternative]:
    """The sets of a phase's ops, each with the one of its modules that is used most, or would be nearest to it."""
    tabled = db.backend and db.mode in _TABLED
    if choice == "never" or (choice == "auto" and not tabled):
        return []
    found = []
    for one in find_modules(ops, phase):
        tried = [_tried(one, module, ask, always=choice == "always") for module in one.found]
        tried = tried or [
            Alternative(found=one, used=numpy.zeros(1, dtype=bool), reason=one.reason)
        ]
        found.append(min(tried, key=lambda tried: (-int(tried.used.sum()), tried.worst)))
    return found


def _tried(found: Candidates, module: Module, ask: Ask, *, always: bool) -> Alternative:
    ms, used, reason = None, numpy.zeros(1, dtype=bool), ""
    try:
        ms = ask(module.op)
        used = numpy.asarray((ms.ranks <= _BETWEEN) & (ms.uncertainty <= VAGUE)) | always
        if not used.any():
            reason = BEYOND if ms.ranks.min() <= _BEYOND else ABSENT
    except PerfDataNotAvailableError as error:
        reason = error.message
    return Alternative(
        found=found, op=module.op, parts=module.parts, used=used, ms=ms, reason=reason
    )
