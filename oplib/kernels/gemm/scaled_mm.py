"""fp8 with one scale per tensor."""

from __future__ import annotations

import torch

from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, integer


class ScaledMm(Variant):
    """torch._scaled_mm with one float32 scale per operand, fast accumulation, bfloat16 output."""

    needs = Needs(device_types=("cuda",), capability=(8, 9), dtypes=("fp8",))
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if integer(params, "n") % 16 or integer(params, "k") % 16:
            return f"needs n and k in multiples of 16, not {params['n']} and {params['k']}"
        return None

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        out = torch._scaled_mm(
            inputs["x"],
            inputs["w"].t(),
            scale_a=inputs["x_scale"],
            scale_b=inputs["w_scale"],
            bias=inputs["bias"],
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return (out,)
