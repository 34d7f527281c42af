"""The reference, built at its first use for longer than a case may take."""

from __future__ import annotations

import time

from oplib.kernels.gemm.eager import Eager
from oplib.kernels.variant import Inputs, Sizes
from oplib.params import Params


class Builds(Eager):
    """The reference, built at its first use for longer than a case may take."""

    unverified = "made for tests"
    build_seconds = 30.0
    built = False

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        if not self.built:
            time.sleep(3)
            type(self).built = True
        return super().prepare(inputs, params, dims)
