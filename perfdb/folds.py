"""Folds: which rows of a group are asked, and which are hidden while they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from perfdb.arrays import Ints, distinct, numbered
from perfdb.efficiency import Group
from perfdb.places import Places

Mask: TypeAlias = NDArray[numpy.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Rows `asked`, and the number `hidden` of each row's set: a row is estimated without any row of its own set.

    `outside` says that the asked rows, set 1, lie beyond the known ones, set 0, and are all hidden at once.
    """

    asked: Ints
    hidden: Ints
    outside: bool = False


def shape_of(group: Group) -> list[int]:
    """The coordinates that are no dims: one shape is measured at many workloads."""
    kind = group.rows.kind
    return [i for i, name in enumerate(kind.coordinates) if name not in kind.dims]


def site_of(group: Group) -> Ints:
    """A number per shape."""
    return numpy.unique(Places(group.points[:, shape_of(group)]).codes, return_inverse=True)[1]


def line_of(group: Group) -> tuple[int, Ints]:
    """The coordinate with most values among the dims, and a number per combination of the other parameters and dims."""
    kind = group.rows.kind
    dims = [i for i, name in enumerate(kind.coordinates) if name in kind.dims]
    along = max(dims, key=lambda i: len(distinct(group.points[:, i])))
    beside = [i for i, name in enumerate(kind.coordinates) if name in kind.implied]
    others = numpy.delete(group.points, [along, *beside], axis=1)
    return along, numbered(Places(others).codes)


def _point(group: Group) -> Fold:
    """Each row that has a neighbour on both sides along its line, with all rows at its place."""
    along, line = line_of(group)
    place = group.points[:, along]
    least, largest = numpy.full(line.max() + 1, numpy.inf), numpy.full(line.max() + 1, -numpy.inf)
    numpy.minimum.at(least, line, place)
    numpy.maximum.at(largest, line, place)
    inside = (place > least[line]) & (place < largest[line])
    return Fold(asked=numpy.flatnonzero(inside), hidden=Places(group.points).codes)


def _whole_site(group: Group) -> Fold:
    """Each row, with its whole site: a shape that was never measured; none where there is one shape."""
    site = site_of(group)
    asked = (
        numpy.arange(len(site)) if site.any() else site[:0]
    )  # with one site nothing would be known
    return Fold(asked=asked, hidden=site)


def _row(group: Group) -> Fold:
    """Each row that is not at an end of the line, with all rows of any site at the same place along it."""
    along, _ = line_of(group)
    place = group.points[:, along]
    inside = (place > place.min()) & (place < place.max())
    return Fold(asked=numpy.flatnonzero(inside), hidden=numpy.unique(place, return_inverse=True)[1])


def _beyond(group: Group, coordinates: list[int]) -> Mask:
    """Rows in the uppermost fifth of the values of each of these coordinates."""
    beyond = numpy.ones(len(group.points), dtype=bool)
    for i in coordinates:
        values = distinct(group.points[:, i])
        beyond &= group.points[:, i] > values[max(int(len(values) * 0.8) - 1, 0)]
    return beyond


def _outside(group: Group, coordinates: list[int]) -> Fold:
    beyond = _beyond(group, coordinates)
    return Fold(asked=numpy.flatnonzero(beyond), hidden=beyond.astype(numpy.intp), outside=True)


def _frontier(group: Group) -> Fold:
    """The uppermost fifth of the largest parameter coordinate (else dim), all of it hidden at once."""
    return _outside(group, _extents(group)[:1])


def _corner(group: Group) -> Fold:
    """The rows in the uppermost fifth of both widest coordinates, all hidden at once."""
    return _outside(group, _extents(group)[:2])


def _extents(group: Group) -> list[int]:
    """Coordinates, parameters before dims, as the kind lists them; those with one value are left out."""
    kind = group.rows.kind
    varying = [i for i in range(group.points.shape[1]) if numpy.ptp(group.points[:, i]) > 0]
    return sorted(varying, key=lambda i: kind.coordinates[i] in kind.dims)


FOLDS: Mapping[str, Callable[[Group], Fold]] = MappingProxyType(
    {
        "point": _point,
        "site": _whole_site,
        "row": _row,
        "frontier": _frontier,
        "corner": _corner,
    }
)
