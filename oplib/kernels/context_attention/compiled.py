"""Attention as separate operators, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.attention import EagerAttention
from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.variant import Needs


class CompiledAttention(Compiled):
    """The separate operators compiled by torch: what a compiled model runs where no kernel knows its sinks or cap."""

    of = EagerAttention
    varies: ClassVar[Varies] = {
        "q": (0, 2),
        "k": (0, 2),
        "v": (0, 2),
        "mask": (0, 1),
    }
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 2
