"""Experts as grouped products, compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.moe.grouped_mm import GroupedMm
from oplib.kernels.variant import Needs


class GroupedMmCompiled(Compiled):
    """The grouped products with everything around them compiled by torch: what a compiled model runs."""

    of = GroupedMm
    needs = Needs(device_types=("cuda",), capability=(8, 0), dtypes=("bfloat16",))
    preference = 20
