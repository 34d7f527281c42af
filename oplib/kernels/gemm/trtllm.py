"""The linear layers of TensorRT-LLM."""

from __future__ import annotations

import torch

from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params


class TrtLlm(Variant):
    """TensorRT-LLM's cublas_mm, or cublas_scaled_mm with one scale per tensor, as its linear layers call them.

    Source: https://github.com/NVIDIA/TensorRT-LLM/blob/v1.0.0/tensorrt_llm/_torch/modules/linear.py
    """

    needs = Needs(
        device_types=("cuda",),
        capability=(8, 9),
        dtypes=("bfloat16", "float16", "fp8"),
        packages=("tensorrt_llm",),
    )
    unverified = "no wheel of it was at hand"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        import tensorrt_llm  # noqa: F401 - it registers its operators with torch

        operators, bias = torch.ops.trtllm, inputs["bias"]
        if "x_scale" not in inputs:
            return (operators.cublas_mm(inputs["x"], inputs["w"].t(), bias, None),)
        out = operators.cublas_scaled_mm(
            inputs["x"],
            inputs["w"].t(),
            scale_a=inputs["x_scale"],
            scale_b=inputs["w_scale"],
            bias=None,  # the operator refuses one
            out_dtype=torch.bfloat16,
        )
        return (out if bias is None else out + bias,)
