"""Asks for more memory than there is."""

from __future__ import annotations

import torch

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Greedy(Variant):
    """Asks for more memory than there is."""

    unverified = "made for tests"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        raise torch.OutOfMemoryError("Tried to allocate 1000 GiB")
