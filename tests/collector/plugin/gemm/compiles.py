"""The reference compiled, on any device: what was captured runs as it is."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.gemm.eager import Eager


class Compiles(Compiled):
    """The reference compiled, on any device: what was captured runs as it is."""

    of = Eager
    backend = "eager"
    unverified = "made for tests"
