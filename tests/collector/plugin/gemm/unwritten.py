"""Leaves the last row as it finds it."""

from __future__ import annotations

from torch.nn import functional

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Unwritten(Variant):
    """Leaves the last row as it finds it."""

    unverified = "made for tests"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        right = functional.linear(inputs["x"], inputs["w"], inputs["bias"])
        out = right.new_empty(right.shape)
        out[:-1] = right[:-1]
        return (out,)
