"""Raises, as a kernel does that is not made for a shape."""

from __future__ import annotations

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Raises(Variant):
    """Raises, as a kernel does that is not made for a shape."""

    unverified = "made for tests"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        raise RuntimeError(f"no kernel for m = {dims['m']}")
