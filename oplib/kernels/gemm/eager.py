"""torch's linear layer."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.gemm import BLOCK
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, text


class Eager(Variant):
    """torch.nn.functional.linear (cuBLAS on a GPU).

    float32 is that and no TF32, which torch leaves off and tensor cores would run several times as fast.
    As the reference of the fp8 modes it widens the operands first, which is no way to run them.
    """

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if text(params, "dtype") == "float32" and torch.get_float32_matmul_precision() != "highest":
            return "multiplies float32 in full precision, and TF32 is on"
        return None

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        x, w, bias = inputs["x"], inputs["w"], inputs["bias"]
        if "x_scale" in inputs:
            x, w = widened(x, inputs["x_scale"]), widened(w, inputs["w_scale"])
        return (functional.linear(x, w, bias),)


def widened(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Values times their scales, in bfloat16, or in float64 where they come in it."""
    if scale.dim() == 0:
        wide = scale
    else:
        rows = values.shape[0] if scale.shape[0] == values.shape[0] else BLOCK * scale.shape[0]
        tall = scale.repeat_interleave(rows // scale.shape[0], 0)[: values.shape[0]]
        wide = tall.repeat_interleave(BLOCK, 1)[:, : values.shape[1]]
    if values.dtype == torch.float64:
        return values * wide
    return (values.to(torch.float32) * wide).to(torch.bfloat16)
