"""FlashInfer's attention over prompts."""

from __future__ import annotations

from oplib.kernels import flashinfer as shared
from oplib.kernels.attention import keys_at_hand, no_extras
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer


class FlashInferPrefill(Variant):
    """FlashInfer's BatchPrefillWithRaggedKVCacheWrapper; its plan is not timed."""

    needs = shared.NEEDS
    build_seconds = shared.BUILD_SECONDS
    bindable = False  # a plan is made on the host for each call

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if extras := no_extras(params):
            return extras
        if params.get("chunk"):
            return "knows no chunks"
        sizes = (integer(params, "head_dim"), integer(params, "v_head_dim"))
        return None if sizes == (192, 128) else shared.head_refused(*sizes)

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        import flashinfer

        q, k, v = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
        t, window = keys_at_hand(params, dims), integer(params, "window")
        wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(shared.workspace(q.device), "NHD")
        wrapper.plan(
            shared.starts(dims["b"], dims["s"], q.device),
            shared.starts(dims["b"], t, q.device),
            q.shape[2],
            k.shape[2],
            q.shape[3],
            v.shape[3],
            causal=flag(params, "causal"),
            window_left=window - 1 if window and t > window else -1,
            q_data_type=q.dtype,
            kv_data_type=k.dtype,
        )
        return {
            "q": q.flatten(0, 1),
            "k": k.flatten(0, 1).contiguous(),
            "v": v.flatten(0, 1).contiguous(),
            "wrapper": wrapper,
        }

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        out = inputs["wrapper"].run(inputs["q"], inputs["k"], inputs["v"])
        return (out.view(dims["b"], dims["s"], *out.shape[1:]).transpose(1, 2),)
