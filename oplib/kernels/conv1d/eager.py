"""torch's convolution."""

from __future__ import annotations

from torch.nn import functional

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, integer


class Eager(Variant):
    """torch.nn.functional.conv1d (cuDNN on a GPU)."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        spread = {"dilation": integer(params, "dilation"), "groups": integer(params, "groups")}
        return (functional.conv1d(inputs["x"], inputs["w"], inputs["bias"], **spread),)
