"""Experts as grouped products."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.moe.eager import activate, route, unshared
from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer


class GroupedMm(Variant):
    """transformers' experts of this name: tokens sorted by expert, two of torch's grouped products, a weighted sum."""

    needs = Needs(capability=(8, 0), dtypes=("bfloat16",), packages=("transformers",))
    experts = "grouped_mm"  # in transformers' registry
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        return off_eight(params) or unshared(params) or _missing()

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        from transformers.integrations.moe import grouped_mm_experts_forward

        weights, chosen = route(inputs["logits"], integer(params, "top_k"))
        x, experts = inputs["x"], _Experts(inputs, gated=flag(params, "gated"))
        return (grouped_mm_experts_forward(experts, x, chosen, weights.to(x.dtype)),)


class _Experts:
    """What transformers' function asks of a module of experts, as `use_experts_implementation` sets it up."""

    is_transposed = False  # weights that are stored so come as views
    is_concatenated = True
    has_post_expert_norm = False
    _is_expert_parallel = False

    def __init__(self, inputs: Inputs, *, gated: bool) -> None:
        self.has_gate, self.has_bias = gated, inputs["up_bias"] is not None
        self.num_experts = inputs["up"].shape[0]
        self.gate_up_proj = self.up_proj = inputs["up"]
        self.gate_up_proj_bias = self.up_proj_bias = inputs["up_bias"]
        self.down_proj, self.down_proj_bias = inputs["down"], inputs["down_bias"]

    def _apply_gate(self, inner: torch.Tensor) -> torch.Tensor:
        return activate(inner, gated=True)

    def act_fn(self, inner: torch.Tensor) -> torch.Tensor:
        return activate(inner, gated=False)


def _missing() -> str | None:
    """Why transformers has no such function; the import also keeps it out of what torch.compile looks into."""
    try:
        from transformers.integrations.moe import grouped_mm_experts_forward  # noqa: F401
    except ImportError as error:
        return f"needs experts of transformers 5.17 or later: {error}"
    return None


def off_eight(params: Params) -> str | None:
    """Why torch's grouped products do not take these sizes, or are not there."""
    if not hasattr(functional, "grouped_mm"):
        return f"needs torch.nn.functional.grouped_mm, which torch {torch.__version__} lacks"
    sizes = integer(params, "hidden_size"), integer(params, "intermediate_size")
    if any(size % 8 for size in sizes):
        return f"needs sizes in multiples of 8, not {sizes[0]} and {sizes[1]}"
    return None
