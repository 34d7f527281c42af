"""The selection as a mask over all keys."""

from __future__ import annotations

import torch

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer

_MOST_SCORES = 2**32  # which exist at once


class Eager(Variant):
    """Scores of all pairs, a mask scattered from the selection, softmax and weighted sum as separate operators."""

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if reason := whole_blocks(params):
            return reason
        if not dims:
            return None
        count = dims["b"] * dims["s"] * integer(params, "num_heads") * (dims["p"] + dims["s"])
        return f"would hold {count} scores" if count > _MOST_SCORES else None

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, chosen = inputs["q"], inputs["chosen"]
        keys, values = keys_and_values(inputs, params)
        seen = torch.zeros(
            (*chosen.shape[:2], keys.shape[2] + 1), dtype=torch.bool, device=q.device
        )
        seen = seen.scatter(-1, chosen, True)[:, None, :, :-1]
        groups = q.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
        scores = (q @ keys.transpose(2, 3) * scale(params)).masked_fill(~seen, float("-inf"))
        return (softmax(scores).to(q.dtype) @ values,)


def whole_blocks(params: Params) -> str | None:
    """Why a kernel that takes single keys does not do this op."""
    return "takes single keys, not blocks" if integer(params, "block") else None


def keys_and_values(inputs: Inputs, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, groups, t, size] of both; the absorbed form has one group, whose values are a part of its keys."""
    if flag(params, "absorbed"):
        keys = inputs["latent"][:, None]
        return keys, keys[..., : integer(params, "kv_lora_rank")]
    return inputs["k"], inputs["v"]


def scale(params: Params) -> float:
    """What scores are multiplied by: the size of a key as the model has it, whatever the form."""
    latent = integer(params, "qk_nope_head_dim") + integer(params, "qk_rope_head_dim")
    return float(
        (latent if integer(params, "kv_lora_rank") else integer(params, "head_dim")) ** -0.5
    )


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """In float32, or float64 where scores come in it."""
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    return torch.softmax(scores, -1, dtype=wide)
