"""Leaves one element out."""

from __future__ import annotations

from torch.nn import functional

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Wrong(Variant):
    """Leaves one element out."""

    unverified = "made for tests"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        out = functional.linear(inputs["x"], inputs["w"], inputs["bias"])
        out[-1, -1] = 0
        return (out,)
