"""Experts as grouped products in fp8 with a scale per block, compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.moe.grouped_blocks import GroupedBlocks


class GroupedBlocksCompiled(Compiled):
    """Triton's grouped products in fp8 with everything around them compiled by torch, rounding of tokens included."""

    of = GroupedBlocks
    needs = GroupedBlocks.needs
    preference = 20
