"""Attention as separate operators, compiled."""

from __future__ import annotations

from oplib.kernels.attention import EagerAttention
from oplib.kernels.compiled import Compiled
from oplib.kernels.variant import Needs


class CompiledAttention(Compiled):
    """The separate operators compiled by torch: what a compiled model runs where no kernel knows its sinks or cap."""

    of = EagerAttention
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 2
