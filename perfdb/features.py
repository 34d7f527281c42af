"""Features: the places of rows in the directions along which kernels change, out of the kind's coordinates.

A feature is written as a product of coordinates, `b*num_heads` or `num_heads/num_kv_heads`, or as `align m`: how often
two divides m, up to a tile. The number of tiles, which decides how well they fill a GPU, is such a product; along its
factors alone each step appears at another place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy

from perfdb.arrays import Floats

_TILE = 7  # octaves: 128, the side of the usual tile
_WHOLE = 1e-6  # relative distance within which a size counts as a whole number
_ALIGN = "align "


def features_of(points: Floats, names: Sequence[str], coordinates: Sequence[str]) -> Floats:
    """Features [n, f] called `names` of `points` [n, d], base-2 logarithms of `coordinates`.

    A size between whole numbers stands for no measurement, so it counts as aligned. An unknown coordinate is an
    error of the file that names it.
    """
    column = {name: points[:, i] for i, name in enumerate(coordinates)}
    return numpy.stack(
        [
            _alignment(column[name.removeprefix(_ALIGN)])
            if name.startswith(_ALIGN)
            else _product(name, column)
            for name in names
        ],
        axis=1,
    )


def _product(name: str, column: dict[str, Floats]) -> Floats:
    total: Floats = numpy.zeros(len(next(iter(column.values()))))
    for sign, factor in re.findall(r"([*/]?)(\w+)", name):
        total = total - column[factor] if sign == "/" else total + column[factor]
    return total


def _alignment(logarithms: Floats) -> Floats:
    sizes = numpy.exp2(logarithms)
    whole = numpy.maximum(sizes.round(), 1.0).astype(numpy.int64)
    powers = numpy.log2(whole & -whole).clip(max=_TILE)
    found: Floats = numpy.where(numpy.abs(sizes - whole) <= _WHOLE * sizes, powers, _TILE)
    return found
