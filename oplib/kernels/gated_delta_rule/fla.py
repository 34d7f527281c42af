"""The kernels of flash-linear-attention."""

from __future__ import annotations

from typing import Any

from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params


class Fla(Variant):
    """flash-linear-attention's Triton kernels, chunked in a prompt, recurrent in generation; keys repeat per head."""

    needs = Needs(
        device_types=("cuda",), capability=(8, 0), dtypes=("bfloat16", "float16"), packages=("fla",)
    )
    preference = 20

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        function, state = _function(str(params["gate"]), str(params["phase"])), inputs["state"]
        times = inputs["v"].shape[2] // inputs["k"].shape[2]
        q, k = inputs["q"], inputs["k"]
        if times > 1:
            q, k = q.repeat_interleave(times, 2), k.repeat_interleave(times, 2)
        y, state = function(
            q=q, k=k, v=inputs["v"], g=inputs["gate"], beta=inputs["beta"], initial_state=state,
            output_final_state=True, use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
        return y, state


def _function(gate: str, phase: str) -> Any:  # Any: a function of a package without types
    if gate == "channel":
        from fla.ops import kda

        return kda.chunk_kda if phase == "context" else kda.fused_recurrent_kda
    from fla.ops import gated_delta_rule

    chunked = gated_delta_rule.chunk_gated_delta_rule
    return chunked if phase == "context" else gated_delta_rule.fused_recurrent_gated_delta_rule
