"""Experts as grouped products in fp8."""

from __future__ import annotations

import torch

from oplib.kernels.moe.eager import by_row
from oplib.kernels.moe.grouped_mm import GroupedMm
from oplib.kernels.variant import Inputs, Needs, Sizes
from oplib.params import Params, integer


class ScaledGroupedMm(GroupedMm):
    """torch._scaled_grouped_mm over rows rounded to fp8 on the way, a scale per row of tokens and of weights."""

    needs = Needs(
        device_types=("cuda",), capability=(9, 0), capability_below=(10, 0), dtypes=("fp8",)
    )
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        sizes = integer(params, "hidden_size"), integer(params, "intermediate_size")
        if any(size % 16 for size in sizes):
            return f"needs sizes in multiples of 16, not {sizes[0]} and {sizes[1]}"
        return super().refuses(params, dims)

    def product(
        self, x: torch.Tensor, name: str, inputs: Inputs, ends: torch.Tensor
    ) -> torch.Tensor:
        rounded, scale = by_row(x)
        return torch._scaled_grouped_mm(
            rounded,
            inputs[name].transpose(1, 2),
            scale,
            inputs[f"{name}_scale"],
            offs=ends,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
