"""Experts as grouped products, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.moe.grouped_mm import GroupedMm
from oplib.kernels.variant import Needs


class GroupedMmCompiled(Compiled):
    """The grouped products with everything around them compiled by torch: what a compiled model runs."""

    of = GroupedMm
    varies: ClassVar[Varies] = {"x": (0,), "logits": (0,)}
    needs = Needs(device_types=("cuda",), capability=(8, 0), dtypes=("bfloat16",))
    experts = "grouped_mm"  # in transformers' registry
    preference = 20
