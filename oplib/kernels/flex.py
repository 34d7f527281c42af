"""What the slots context_attention and generation_attention share of torch's flex_attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.nn.attention import flex_attention as flex

from oplib.kernels.attention import all_visible, keys_at_hand, plain_causal
from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, integer

NEEDS = Needs(device_types=("cuda",), capability=(8, 0), dtypes=("bfloat16", "float16"))
MaskMod: TypeAlias = Callable[[Any, Any, Any, Any], Any]  # Any: scalars while torch traces it
_MOST_PAIRS = 2**30  # of a mask, which exists in full while its blocks are found


class Flex(Variant):
    """flex_attention: the soft cap is part of the kernel, blocks that a mask hides are skipped, and sinks come last.

    A sink is one more score that joins the softmax and has no value: what the kernel gives is scaled by
    1 / (1 + exp(sink - L)), with L the logarithm of the sum of exponentials that the kernel returns beside it.
    """

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if params.get("bias", "none") != "none":
            return f"knows no {params['bias']} bias"
        if dims and dims["s"] * keys_at_hand(params, dims) > _MOST_PAIRS:
            return f"would need a mask of more than {_MOST_PAIRS} pairs"
        return None

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        return {**inputs, "mask": block_mask(params, dims, inputs["q"].device)}

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, k, v, sinks = inputs["q"], inputs["k"], inputs["v"], inputs["sinks"]
        cap = params.get("softcap")

        def capped(score: Any, *_: Any) -> Any:
            return torch.tanh(score / cap) * cap

        out, beside = flex.flex_attention(
            q,
            k,
            v,
            score_mod=capped if cap else None,
            block_mask=inputs["mask"],
            enable_gqa=q.shape[1] != k.shape[1],
            return_aux=flex.AuxRequest(lse=sinks is not None),
        )
        if sinks is not None:
            share = torch.sigmoid(beside.lse - sinks.to(beside.lse.dtype)[:, None])
            out = (out * share[..., None]).to(v.dtype)
        return (out,)


def block_mask(params: Params, dims: Sizes, device: torch.device) -> Any:  # Any: a BlockMask
    """Which blocks of 128 queries see which blocks of 128 keys; None where each query sees all keys."""
    if all_visible(params, dims):
        return None
    s, p, t = dims["s"], dims["p"], keys_at_hand(params, dims)
    window, chunk = integer(params, "window"), int(params.get("chunk") or 0)
    offset = 0 if plain_causal(params, dims) else p
    seen = mask_of(
        torch.tensor(offset, device=device), torch.tensor(p + s - t, device=device), window, chunk
    )
    return flex.create_block_mask(seen, None, None, s, t, device=device)


def mask_of(query_at: torch.Tensor, key_at: torch.Tensor, window: int, chunk: int) -> MaskMod:
    """Where a query sees a key; the first of each are at the positions given, as tensors, so that one compilation
    serves all of them."""

    def seen(_b: Any, _h: Any, query: Any, key: Any) -> Any:
        query, key = query + query_at, key + key_at
        found = key <= query
        if window:
            found = found & (query - key < window)
        if chunk:
            found = found & (query // chunk == key // chunk)
        return found

    return seen
