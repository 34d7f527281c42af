"""FlashInfer's latent attention over a paged cache."""

from __future__ import annotations

import torch

from oplib.kernels import flashinfer as shared
from oplib.kernels.latent import keys_at_hand, scale
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer


class FlashInferMla(Variant):
    """FlashInfer's BatchMLAPagedAttentionWrapper over pages of 16 tokens, absorbed form; its plan is not timed."""

    needs = shared.NEEDS
    build_seconds = shared.BUILD_SECONDS
    bindable = False  # a plan is made on the host for each call

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if not flag(params, "absorbed"):
            return "takes the absorbed form"
        sizes = (params["kv_lora_rank"], params["qk_rope_head_dim"])
        if sizes != (512, 64):
            return f"takes a latent of 512 + 64, not {sizes[0]} + {sizes[1]}"
        return "knows no window" if params["window"] else None

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        import flashinfer

        b, s, t = dims["b"], dims["s"], keys_at_hand(params, dims)
        q, rank = inputs["q"].transpose(1, 2).flatten(0, 1), integer(params, "kv_lora_rank")
        pages = -(-t // shared.PAGE)
        wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(shared.workspace(q.device))
        wrapper.plan(
            shared.starts(b, s, q.device),
            shared.starts(b, pages, q.device),
            torch.arange(b * pages, dtype=torch.int32, device=q.device),
            torch.full((b,), t, dtype=torch.int32, device=q.device),
            q.shape[1],
            rank,
            q.shape[2] - rank,
            shared.PAGE,
            flag(params, "causal"),
            scale(params),
            q.dtype,
            q.dtype,
        )
        cache = shared.paged(inputs["latent"])
        return {
            "q": q[..., :rank].contiguous(),
            "q_rope": q[..., rank:].contiguous(),
            "cache": cache[..., :rank].contiguous(),
            "rope": cache[..., rank:].contiguous(),
            "wrapper": wrapper,
        }

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        out = inputs["wrapper"].run(
            inputs["q"], inputs["q_rope"], inputs["cache"], inputs["rope"], return_lse=False
        )
        return (out.view(dims["b"], dims["s"], *out.shape[1:]).transpose(1, 2),)
