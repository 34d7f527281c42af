"""Experts as grouped products in fp8 with a scale per block."""

from __future__ import annotations

import torch

from oplib.kernels.gemm import BLOCK
from oplib.kernels.moe.eager import by_block, unshared
from oplib.kernels.moe.scaled_grouped_mm import ScaledGroupedMm
from oplib.kernels.variant import Inputs, Needs, Sizes
from oplib.params import Params, integer


class GroupedBlocks(ScaledGroupedMm):
    """Triton's grouped products in fp8 over tokens rounded on the way, a scale per 128 of a row and 128 x 128 weights.

    The first product gathers the tokens, so that each is rounded once however many experts it has.
    """

    needs = Needs(
        device_types=("cuda",), capability=(9, 0), dtypes=("fp8_block",), packages=("triton",)
    )

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        sizes = integer(params, "hidden_size"), integer(params, "intermediate_size")
        if any(size % BLOCK for size in sizes):
            return f"needs sizes in multiples of {BLOCK}, not {sizes[0]} and {sizes[1]}"
        return unshared(params)

    def product(
        self,
        x: torch.Tensor,
        source: torch.Tensor | None,
        name: str,
        inputs: Inputs,
        ends: torch.Tensor,
    ) -> torch.Tensor:
        from oplib.kernels.grouped_blocks import grouped_product

        rounded, scale = by_block(x)
        weights, scales = inputs[name], inputs[f"{name}_scale"]
        pairs = x.shape[0] if source is None else source.shape[0]
        return grouped_product(rounded, scale, weights, scales, ends, source, pairs)
