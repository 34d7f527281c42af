"""Never returns."""

from __future__ import annotations

import time

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Hangs(Variant):
    """Never returns."""

    unverified = "made for tests"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        while True:
            time.sleep(1)
