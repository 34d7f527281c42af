"""torch's lookup."""

from __future__ import annotations

from torch.nn import functional

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Eager(Variant):
    """torch.nn.functional.embedding."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        return (functional.embedding(inputs["ids"], inputs["table"]),)
