"""Compiled as the other, and finds no memory."""

from __future__ import annotations

import torch

from oplib.kernels.variant import Inputs, Outputs, Sizes
from oplib.params import Params
from tests.collector.plugin.gemm.compiles import Compiles


class Full(Compiles):
    """Compiled as the other, and finds no memory."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        raise torch.OutOfMemoryError("Tried to allocate 1000 GiB")
