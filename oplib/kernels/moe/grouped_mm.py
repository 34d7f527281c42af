"""Experts as grouped products."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.moe.eager import activate, route, unshared
from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer


class GroupedMm(Variant):
    """Tokens sorted by expert, two of torch's grouped products, and a weighted sum: what transformers runs."""

    needs = Needs(capability=(8, 0), dtypes=("bfloat16",))
    experts = "grouped_mm"  # in transformers' registry
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if not hasattr(functional, "grouped_mm"):
            return f"needs torch.nn.functional.grouped_mm, which torch {torch.__version__} lacks"
        sizes = integer(params, "hidden_size"), integer(params, "intermediate_size")
        if any(size % 8 for size in sizes):
            return f"needs sizes in multiples of 8, not {sizes[0]} and {sizes[1]}"
        return unshared(params)

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        top_k, experts = integer(params, "top_k"), inputs["up"].shape[0]
        weights, chosen = route(inputs["logits"], top_k)
        expert, order = torch.sort(chosen.flatten())
        counts = torch.histc(expert.float(), bins=experts, min=0, max=experts - 1)
        ends = torch.cumsum(counts, 0).to(torch.int32)
        inner = self.product(inputs["x"][order // top_k], "up", inputs, ends)
        if inputs["up_bias"] is not None:
            inner = inner + inputs["up_bias"][expert]
        rows = self.product(activate(inner, flag(params, "gated")), "down", inputs, ends)
        if inputs["down_bias"] is not None:
            rows = rows + inputs["down_bias"][expert]
        rows = rows * weights.flatten()[order].to(rows.dtype)[:, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=order.device)
        return (rows[back].view(-1, top_k, rows.shape[1]).sum(1),)

    def product(
        self, x: torch.Tensor, name: str, inputs: Inputs, ends: torch.Tensor
    ) -> torch.Tensor:
        """Rows sorted by expert times the weights `name` of each, the rows of an expert ending at `ends`."""
        return functional.grouped_mm(x, inputs[name].transpose(1, 2), offs=ends)
