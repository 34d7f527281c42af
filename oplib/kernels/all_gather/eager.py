"""What one process gets where all gave the same."""

from __future__ import annotations

from oplib.kernels.collective import parts
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Eager(Variant):
    """The reference on one device: what everyone gets where all processes give this one's values."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        x, count = inputs["x"], inputs["num_gpus"]
        return (parts(x, count)[0].repeat(count),)
