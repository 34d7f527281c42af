"""FlashInfer's decoding over a paged cache."""

from __future__ import annotations

import torch

from oplib.kernels import flashinfer as shared
from oplib.kernels.attention import keys_at_hand, no_extras
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, integer


class FlashInferDecode(Variant):
    """FlashInfer's BatchDecodeWithPagedKVCacheWrapper over pages of 16 tokens; its plan is not timed."""

    needs = shared.NEEDS
    build_seconds = shared.BUILD_SECONDS
    bindable = False  # a plan is made on the host for each call

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if extras := no_extras(params):
            return extras
        if params.get("chunk"):
            return "knows no chunks"
        if dims.get("s", 1) != 1:
            return "takes one new token"
        return shared.head_refused(integer(params, "head_dim"), integer(params, "v_head_dim"))

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        import flashinfer

        q, k, v = inputs["q"], inputs["k"].transpose(1, 2), inputs["v"].transpose(1, 2)
        t, window = keys_at_hand(params, dims), integer(params, "window")
        pages = -(-t // shared.PAGE)
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            shared.workspace(q.device), "NHD", use_tensor_cores=q.shape[1] // k.shape[2] >= 4
        )
        wrapper.plan(
            shared.starts(dims["b"], pages, q.device),
            torch.arange(dims["b"] * pages, dtype=torch.int32, device=q.device),
            torch.full((dims["b"],), (t - 1) % shared.PAGE + 1, dtype=torch.int32, device=q.device),
            q.shape[1],
            k.shape[2],
            q.shape[3],
            shared.PAGE,
            window_left=window - 1 if window and t > window else -1,
            q_data_type=q.dtype,
            kv_data_type=k.dtype,
        )
        cache = (shared.paged(k), shared.paged(v))
        return {"q": q[:, :, 0].contiguous(), "cache": cache, "wrapper": wrapper}

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        return (inputs["wrapper"].run(inputs["q"], inputs["cache"])[:, :, None],)
