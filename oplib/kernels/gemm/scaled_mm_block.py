"""fp8 with a scale per block."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.gemm import BLOCK
from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, integer

_SCALE_ROWS = (
    4  # cuBLASLt reads the scales of x for 4 rows at a time, and those of w for 4 blocks of k
)


class ScaledMmBlock(Variant):
    """torch.nn.functional.scaled_mm with a scale per 128 of a row of x and per 128 x 128 block of w (cuBLASLt)."""

    needs = Needs(
        device_types=("cuda",), capability=(9, 0), capability_below=(10, 0), dtypes=("fp8_block",)
    )
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if integer(params, "n") % BLOCK or integer(params, "k") % BLOCK:
            return f"needs n and k in multiples of 128, not {params['n']} and {params['k']}"
        if params.get("bias"):
            return "adds no bias"
        if not hasattr(functional, "scaled_mm"):
            return f"needs torch.nn.functional.scaled_mm, which torch {torch.__version__} lacks"
        return None

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        """x padded to rows of 4, scales of x by column, scales of w padded to 4 blocks of k."""
        x, x_scale, w_scale = inputs["x"], inputs["x_scale"], inputs["w_scale"]
        rows, blocks = -x.shape[0] % _SCALE_ROWS, -w_scale.shape[1] % _SCALE_ROWS
        if rows:
            x = torch.cat([x, x.new_zeros((rows, x.shape[1]))])
        padded = functional.pad(x_scale, (0, 0, 0, rows), value=1.0)
        return {
            "x": x,
            "w": inputs["w"].t(),
            "x_scale": padded.t().contiguous().t(),
            "w_scale": functional.pad(w_scale, (0, blocks)).t(),
        }

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        out = functional.scaled_mm(
            inputs["x"],
            inputs["w"],
            inputs["x_scale"],
            functional.ScalingType.BlockWise1x128,
            inputs["w_scale"],
            functional.ScalingType.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )
        return (out[: dims["m"]],)
