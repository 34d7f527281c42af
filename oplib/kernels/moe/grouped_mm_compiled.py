"""Experts as grouped products, compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.moe.grouped_mm import GroupedMm
from oplib.kernels.variant import Needs


class GroupedMmCompiled(Compiled):
    """transformers' grouped products and the selection before them, compiled by torch: what a compiled model runs.

    Up to 512 pairs inductor sorts in a kernel of its own, of which it has to know how many there are; else torch's sort
    runs, with copies around it (`torch._inductor.ir.Sort.create`).
    """

    of = GroupedMm
    needs = Needs(
        device_types=("cuda",),
        capability=(8, 0),
        dtypes=("bfloat16",),
        packages=("transformers",),
    )
    experts = "grouped_mm"  # in transformers' registry
    preference = 20
