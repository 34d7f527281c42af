"""Names for numpy arrays by what they hold."""

from __future__ import annotations

from typing import TypeAlias

import numpy
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[numpy.float64]
Ints: TypeAlias = NDArray[numpy.intp]
