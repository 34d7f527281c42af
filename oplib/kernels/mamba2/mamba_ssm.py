"""The kernels of the package mamba-ssm."""

from __future__ import annotations

from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, integer


class MambaSsm(Variant):
    """mamba-ssm's Triton kernels: mamba_chunk_scan_combined, and selective_state_update in generation."""

    needs = Needs(
        device_types=("cuda",), capability=(8, 0), dtypes=("bfloat16", "float16"),
        packages=("mamba_ssm",),
    )  # fmt: skip
    preference = 20
    unverified = "no wheel of it was at hand"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        x, state = inputs["x"], inputs["state"]
        if state is None:
            from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

            y, state = mamba_chunk_scan_combined(
                x, inputs["dt"], inputs["A"], inputs["B"], inputs["C"], integer(params, "chunk_size"),
                D=inputs["D"], dt_bias=inputs["dt_bias"], dt_softplus=True, return_final_states=True,
            )  # fmt: skip
            return y, state
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update

        heads, size, n = state.shape[1:]
        y = selective_state_update(
            state, x[:, 0], inputs["dt"][:, 0, :, None].expand(-1, -1, size),
            inputs["A"][:, None, None].expand(-1, size, n), inputs["B"][:, 0], inputs["C"][:, 0],
            D=inputs["D"][:, None].expand(-1, size), dt_bias=inputs["dt_bias"][:, None].expand(heads, size),
            dt_softplus=True,
        )  # fmt: skip
        return y[:, None], state
