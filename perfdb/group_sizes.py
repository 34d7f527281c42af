"""Groups of another size: where a table has no rows of a collective over so many GPUs, its rows over others say it.

    latency = latency over m · ((1 - reached) · (n / m) ^ rounds + reached · (moved over n / moved over m) ^ moves)

`reached` is the share of the bound that the measured rows reach: small messages wait for rounds of steps, whose number
grows with the group, and large ones for what a GPU sends of the message (`Collective.link_moves`, without help of the
switch). `group_sizes.toml` states, for GPUs that switches join, both exponents by kind, with the error that a doubling
of the group adds.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import log2
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy

from oplib.collective import Collective
from oplib.kind import Dims, OpKind
from oplib.params import Params, integer
from perfdb.arrays import Floats
from perfdb.columns import plain
from perfdb.performance import PerformanceArray, origin_rank
from perfdb.speed_of_light import bounds_ms, spans_servers
from perfdb.tables import Table

if TYPE_CHECKING:
    from perfdb.database import PerfDatabase

FILE = "group_sizes.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How times of a collective follow the size of its group; `uncertainty` (relative, one sigma) is of a doubling."""

    rounds: float
    moves: float
    uncertainty: float
    source: str

    def scale(self, kind: Collective, measured: int, asked: int, reached: Floats) -> Floats:
        """What a time over `measured` GPUs is multiplied with; both at least 2, `reached` from 0 to 1."""
        return self.ratio(asked / measured, moved(kind, measured, asked), reached)

    def ratio(self, larger: Floats | float, moved: Floats | float, reached: Floats) -> Floats:
        """The same of a group so many times as `larger`, of which each GPU sends `moved` times as much."""
        found: Floats = (1 - reached) * larger**self.rounds + reached * moved**self.moves
        return found

    def error(self, measured: int, asked: int) -> float:
        """Relative, one sigma."""
        return float((1 + self.uncertainty) ** abs(log2(asked / measured)) - 1)


@cache
def growths() -> Mapping[str, Growth]:
    """What is stated, by kind."""
    file = Path(__file__).with_name(FILE).read_text(encoding="utf-8")
    return MappingProxyType({kind: Growth(**entry) for kind, entry in tomllib.loads(file).items()})


def of_other_group(
    db: PerfDatabase, kind: OpKind, params: Params, dims: Dims
) -> tuple[int, PerformanceArray] | None:
    """The number of GPUs whose rows answer in place of the asked one, and what they say.

    None where none do, and where no switch joins the GPUs: over PCIe they share what a smaller group has alone.
    """
    table, growth = db.table(kind), growths().get(kind.name)
    if growth is None or not isinstance(table, Table) or not db.system.joins:
        return None
    assert isinstance(kind, Collective)
    asked = integer(params, "num_gpus")
    for other in nearest_sizes(asked, (int(plain(n)) for n in table.params["num_gpus"].used)):
        there = {**params, "num_gpus": other}
        entry = db.entry(kind, there, dims)
        if entry.latency is None or spans_servers(kind, there, db.system):
            continue
        bound, least = (
            numpy.asarray(bounds_ms(kind, one, dims, db.system)[0], dtype=numpy.float64)
            for one in (there, params)
        )
        found = db.silicon(entry, dims, bound)
        scale = growth.scale(kind, other, asked, reached(bound, found.latency))
        return other, PerformanceArray(
            numpy.maximum(found.latency * scale, least),
            ranks=numpy.full(found.latency.shape, origin_rank("empirical"), dtype=numpy.int8),
            uncertainty=numpy.hypot(found.uncertainty, growth.error(other, asked)),
        )
    return None


def moved(kind: Collective, measured: int, asked: int) -> float:
    """What a GPU sends of a message over `asked` GPUs by what it sends over `measured`, without help of the switch."""
    return kind.link_moves(asked, False) / kind.link_moves(measured, False)


def nearest_sizes(asked: int, measured: Iterable[int]) -> list[int]:
    """Sizes of groups that can say something of another, the nearest first; of equally near ones the larger."""
    sizes = {size for size in measured if size > 1 and size != asked}
    return sorted(sizes, key=lambda size: (abs(log2(asked / size)), -size))


def reached(bound: Floats, latency: Floats) -> Floats:
    """The share of the bound, both in ms, that a time reaches."""
    share: Floats = numpy.clip(bound / numpy.maximum(latency, 1e-30), 0.0, 1.0)
    return share
