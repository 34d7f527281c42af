"""torch's depthwise convolution, compiled."""

from __future__ import annotations

from oplib.kernels.causal_conv1d.eager import Eager
from oplib.kernels.compiled import Compiled
from oplib.kernels.variant import Needs


class CompiledConv(Compiled):
    """torch's convolution with what surrounds it compiled; one token is a single kernel."""

    of = Eager
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10
