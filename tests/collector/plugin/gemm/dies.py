"""Ends the process, as a fault of the device can."""

from __future__ import annotations

import os
import signal

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Dies(Variant):
    """Ends the process, as a fault of the device can."""

    unverified = "made for tests"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        os.kill(os.getpid(), signal.SIGSEGV)
        return ()
