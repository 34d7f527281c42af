"""Compiled as the other, and takes a while."""

from __future__ import annotations

import time

from oplib.kernels.variant import Inputs, Outputs, Sizes
from oplib.params import Params
from tests.collector.plugin.gemm.compiles import Compiles


class Slow(Compiles):
    """Compiled as the other, and takes a while."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        time.sleep(0.1)
        return super().run(inputs, params, dims)
