"""The scores as separate operators."""

from __future__ import annotations

import torch

from oplib.kernels.sparse_indexer import keys_at_hand
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, integer

_MOST_SCORES = 2**32  # of all heads, which exist at once


class Eager(Variant):
    """Scores of all heads in one product, relu, weighted sum, mask and topk as separate operators."""

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if not dims:
            return None
        count = dims["b"] * dims["s"] * integer(params, "num_heads") * keys_at_hand(params, dims)
        return f"would hold {count} scores" if count > _MOST_SCORES else None

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        device, ratio = inputs["q"].device, integer(params, "ratio")
        query = torch.arange(dims["p"] + 1, dims["p"] + dims["s"] + 1, device=device)
        key = torch.arange(1, keys_at_hand(params, dims) + 1, device=device)
        return {**inputs, "hidden": key > query[:, None] // ratio}

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, k, w = inputs["q"], inputs["k"], inputs["w"]
        b, s, heads, size = q.shape
        scores = (q.reshape(b, s * heads, size) @ k.transpose(1, 2)).view(b, s, heads, -1)
        scores = torch.relu(scores)
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        if w is None:
            total = scores.to(wide).sum(2)
        else:
            total = (w.to(wide)[:, :, None] @ scores.to(wide))[:, :, 0]
        total = total.masked_fill(inputs["hidden"], float("-inf"))
        topk = integer(params, "topk")
        if topk:
            total = torch.topk(total, min(topk, total.shape[-1]), -1).values
        return (total.masked_fill(total == float("-inf"), 0.0),)
