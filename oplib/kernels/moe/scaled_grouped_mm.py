"""Experts as grouped products in fp8."""

from __future__ import annotations

import torch

from oplib.kernels.moe.eager import activate, by_row, route, unshared
from oplib.kernels.moe.grouped_mm import off_eight
from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer


class ScaledGroupedMm(Variant):
    """torch._scaled_grouped_mm over rows rounded to fp8 on the way, a scale per row of tokens and of weights.

    What lies around the products is as in `grouped_mm`; transformers' experts of that name know no scales.
    """

    needs = Needs(
        device_types=("cuda",), capability=(9, 0), capability_below=(10, 0), dtypes=("fp8",)
    )
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        sizes = integer(params, "hidden_size"), integer(params, "intermediate_size")
        if any(size % 16 for size in sizes):
            return f"needs sizes in multiples of 16, not {sizes[0]} and {sizes[1]}"
        return off_eight(params) or unshared(params)

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        top_k, experts = integer(params, "top_k"), inputs["up"].shape[0]
        weights, chosen = route(inputs["logits"], top_k)
        expert, order = torch.sort(chosen.flatten())
        every = torch.arange(experts, device=expert.device)
        ends = torch.searchsorted(expert, every, right=True, out_int32=True)
        inner = self.product(inputs["x"], order // top_k, "up", inputs, ends)
        if inputs["up_bias"] is not None:
            inner = inner + inputs["up_bias"][expert]
        active = activate(inner, flag(params, "gated"))
        rows = self.product(active, None, "down", inputs, ends)
        if inputs["down_bias"] is not None:
            rows = rows + inputs["down_bias"][expert]
        rows = rows * weights.flatten()[order].to(rows.dtype)[:, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=order.device)
        return (rows[back].view(-1, top_k, rows.shape[1]).sum(1),)

    def product(
        self,
        x: torch.Tensor,
        source: torch.Tensor | None,
        name: str,
        inputs: Inputs,
        ends: torch.Tensor,
    ) -> torch.Tensor:
        """Pairs sorted by expert times the weights `name` of each, the pairs of an expert ending at `ends`; `source` is
        the row of x of a pair, where they are not its rows as they lie."""
        rounded, scale = by_row(x if source is None else x[source])
        return torch._scaled_grouped_mm(
            rounded,
            inputs[name].transpose(1, 2),
            scale,
            inputs[f"{name}_scale"],
            offs=ends,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
