"""scaled_dot_product_attention, whatever backend torch takes."""

from __future__ import annotations

from torch.nn import functional

from oplib.kernels.attention import Sdpa
from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes
from oplib.params import Params


class SdpaAny(Sdpa):
    """torch's scaled_dot_product_attention with the backend that torch chooses."""

    needs = Needs()
    preference = 5

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        out = functional.scaled_dot_product_attention(
            inputs["q"],
            inputs["k"],
            inputs["v"],
            attn_mask=inputs["mask"],
            is_causal=inputs["causal"],
            enable_gqa=inputs["q"].shape[1] != inputs["k"].shape[1],
        )
        return (out,)
