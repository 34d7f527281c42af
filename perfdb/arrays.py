"""Names for numpy arrays by what they hold."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[numpy.float64]
Ints: TypeAlias = NDArray[numpy.intp]

_Any = TypeVar("_Any", bound=numpy.generic)
_SPREAD = 32  # keys that lie further apart than this are sorted and not counted


def distinct(values: NDArray[_Any]) -> NDArray[_Any]:
    """The distinct ones of `values` [n], ascending; `numpy.unique` would load masked arrays for as much."""
    ascending = numpy.sort(values)
    found: NDArray[_Any] = ascending[
        numpy.append(True, ascending[1:] != ascending[:-1])[: len(values)]
    ]
    return found


def numbered(keys: Ints) -> Ints:
    """A number per key of `keys` [n], the same for equal ones, from 0 without gaps in their order."""
    lowest = keys.min(initial=0)
    span = int(keys.max(initial=0)) - int(lowest) + 1
    if span > _SPREAD * len(keys):
        found: Ints = numpy.unique(keys, return_inverse=True)[1]
    else:
        used = numpy.zeros(span, dtype=numpy.intp)
        used[keys - lowest] = 1
        found = (numpy.cumsum(used) - 1)[keys - lowest]
    return found
