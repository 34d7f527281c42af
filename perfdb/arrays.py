"""Names for numpy arrays by what they hold."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[numpy.float64]
Ints: TypeAlias = NDArray[numpy.intp]

_Any = TypeVar("_Any", bound=numpy.generic)


def distinct(values: NDArray[_Any]) -> NDArray[_Any]:
    """The distinct ones of `values` [n], ascending; `numpy.unique` would load masked arrays for as much."""
    found = numpy.sort(values)
    return found[numpy.append(True, found[1:] != found[:-1])[: len(found)]]
