"""Efficiency: the measured times of a table next to the bound of each, on coordinates where both are smooth.

What is interpolated is log(latency / (bound + launch)). The bound carries the work, that of whole chunks where kernels
do no less (`OpKind.worked`), so the ratio changes slowly; the launch floor keeps it near 1 where a kernel is too small
to be bound by anything. It is that of the group's own shortest rows where the kind shows it. Coordinates are base-2
logarithms, of p + 1 where a size may be 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from oplib.errors import InvalidInputError
from oplib.kind import OpKind
from oplib.params import ParamValue
from perfdb.arrays import Floats, distinct
from perfdb.places import Places
from perfdb.row_choice import rows_that_count
from perfdb.speed_of_light import bounds_ms
from perfdb.systems import System
from perfdb.tables import Table

LAUNCH_MS = 0.004  # what a kernel takes that does nothing: 2.4 to 10 us in the published tables
_LEAST_LAUNCH_MS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows of a table that differ in coordinates only: `points` [n, d], `ratios` [n], and the parameters they share.

    `launch` is ms of a kernel of the group that has nothing to do; latency = (bounds + launch) · exp(ratios).
    """

    rows: Table
    shared: Mapping[str, ParamValue]
    points: Floats
    ratios: Floats
    bounds: Floats
    launch: float


def groups_of(table: Table, system: System, names: Sequence[str] | None = None) -> Iterator[Group]:
    """The groups of a table, rows in the order of the file. Rows whose parameters or sizes describe no op of the kind,
    or whose time is no positive number, are left out; of several rows at one place the one that counts stays
    (`perfdb.row_choice`). `names` are the parameters that tell groups apart, all but coordinates where not given."""
    kind = table.kind
    timed = numpy.isfinite(table.latency) & (table.latency > 0) & sized(table)
    if not timed.all():
        table = table.take(timed)
    if names is None:
        names = [param.name for param in kind.params if param.name not in kind.coordinates]
    for shared, places in table.split(list(names)):
        rows = table.take(places)
        codes = Places(coordinates(kind, rows.columns)).codes
        if len(distinct(codes)) < len(codes):
            rows = rows.take(rows_that_count(rows))
        bounds = row_bounds(rows, system, worked=True)[0]
        known = numpy.isfinite(bounds)
        if known.any():
            kept = rows.take(known)
            launch = _floor_ms(kept.latency) if kind.shows_floor else LAUNCH_MS
            yield Group(
                rows=kept,
                shared=shared,
                points=coordinates(kind, kept.columns),
                ratios=numpy.log(kept.latency / (bounds[known] + launch)),
                bounds=bounds[known],
                launch=launch,
            )


def _floor_ms(latency: Floats) -> float:
    """Just under the shortest times of a group, but for a few that may be mistakes."""
    place = 0.01 * (len(latency) - 1)  # the first hundredth, as numpy.quantile has it for more
    below, above = int(place), min(int(place) + 1, len(latency) - 1)
    ends = numpy.partition(latency, (below, above))[[below, above]]
    return max(0.9 * float(ends[0] + (ends[1] - ends[0]) * (place - below)), _LEAST_LAUNCH_MS)


def sized(table: Table) -> NDArray[numpy.bool_]:
    """Which rows have sizes of an op: every coordinate above 0, cached tokens at least 0."""
    found = numpy.ones(len(table), dtype=bool)
    for name in table.kind.coordinates:
        found &= table.columns[name] + (name == "p") > 0
    return found


def coordinates(kind: OpKind, columns: Mapping[str, Any]) -> Floats:  # Any: numbers or arrays
    """Points [n, d] of `kind.coordinates`; p counts one more, because it may be 0."""
    values = [numpy.asarray(columns[name], dtype=numpy.float64) for name in kind.coordinates]
    shifted = [v + (name == "p") for name, v in zip(kind.coordinates, values, strict=True)]
    points: Floats = numpy.log2(numpy.stack(numpy.broadcast_arrays(*shifted), axis=-1))
    return points


def bounds_of(table: Table, system: System) -> Floats:
    """The bound of each row in ms; nan where its parameters describe no op."""
    return row_bounds(table, system)[0]


def row_bounds(
    table: Table, system: System, *, worked: bool = False
) -> tuple[Floats, Floats, Floats]:
    """`bounds_ms` of each row: the bound, its sides by FLOPs and by bytes; nan where the parameters describe no op.

    `worked` asks for those of the sizes that kernels work through.
    """
    kind = table.kind
    found = numpy.full((3, len(table)), numpy.nan)
    for params, places in table.split([param.name for param in kind.params]):
        try:
            complete = kind.complete(params)
        except InvalidInputError:
            continue
        dims = {name: table.columns[name][places].astype(numpy.float64) for name in kind.dims}
        sizes = kind.worked(complete, dims) if worked else dims
        for row, side in zip(found, bounds_ms(kind, complete, sizes, system), strict=True):
            row[places] = side
    bound, compute, moved = found
    return bound, compute, moved
