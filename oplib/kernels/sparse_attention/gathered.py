"""The selected keys gathered."""

from __future__ import annotations

import torch

from oplib.kernels.sparse_attention.eager import scale, softmax, whole_blocks
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer

_MOST_BYTES = 2**34  # of gathered keys, 2 bytes each


class Gathered(Variant):
    """Rows of the latent cache gathered for each query, then plain products over them: only selected keys cost."""

    preference = 5

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if reason := whole_blocks(params):
            return reason
        if not flag(params, "absorbed"):
            return "gathers rows of the absorbed cache only"
        if not dims:
            return None
        width = integer(params, "kv_lora_rank") + integer(params, "qk_rope_head_dim")
        count = min(integer(params, "topk") or dims["p"] + dims["s"], dims["p"] + dims["s"])
        moved = 2 * dims["b"] * dims["s"] * count * width
        return f"would gather {moved} bytes" if moved > _MOST_BYTES else None

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, latent, chosen = inputs["q"], inputs["latent"], inputs["chosen"]
        b, heads, s, width = q.shape
        t = latent.shape[1]
        place = chosen.clamp(max=t - 1) + torch.arange(b, device=q.device)[:, None, None] * t
        rows = latent.reshape(b * t, width)[place.reshape(-1)].view(b * s, -1, width)
        flat = q.transpose(1, 2).reshape(b * s, heads, width)
        scores = (flat @ rows.transpose(1, 2)) * scale(params)
        scores = scores.masked_fill((chosen == t).view(b * s, 1, -1), float("-inf"))
        values = rows[..., : integer(params, "kv_lora_rank")]
        out = softmax(scores).to(q.dtype) @ values
        return (out.view(b, s, heads, -1).transpose(1, 2),)
