"""What the slots context_attention and generation_attention share: inputs, masks and the ways to run them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer, text
from oplib.plain_attention import visible_cache

GPU_DTYPES = ("bfloat16", "float16")


def keys_at_hand(params: Params, dims: Sizes) -> int:
    """Cached keys that are there, and the new ones."""
    cached: int = visible_cache(dims["p"], params)
    return cached + dims["s"]


def attention_inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """q[b, H, s, D] as a projection leaves it, k[b, G, t, D] and v[b, G, t, V] in the cache, sinks[H] or None.

    The cache already holds the new tokens: the kernel before, which rotates the keys, has written them in place.
    """
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    heads, groups = integer(params, "num_heads"), integer(params, "num_kv_heads")
    d, dv, t = (
        integer(params, "head_dim"),
        integer(params, "v_head_dim"),
        keys_at_hand(params, dims),
    )
    sinks = source.weight((heads,), dtype) if flag(params, "sinks") else None
    return {
        "q": source.activation((b, s, heads, d), dtype).transpose(1, 2),
        "k": source.weight((b, groups, t, d), dtype),
        "v": source.weight((b, groups, t, dv), dtype),
        "sinks": sinks,
    }


def all_visible(params: Params, dims: Sizes) -> bool:
    """Whether each query sees all keys at hand."""
    if not flag(params, "causal"):
        return True
    window, chunk = integer(params, "window"), int(params.get("chunk") or 0)
    whole = keys_at_hand(params, dims)
    hidden = (chunk and whole > dims["p"] % chunk + 1) or (window and whole > window)
    return dims["s"] == 1 and not hidden


def masked(params: Params, dims: Sizes) -> bool:
    """Whether a kernel that knows no mask but the causal one of a fresh prompt gets it as a tensor."""
    return not (plain_causal(params, dims) or all_visible(params, dims))


def visible(params: Params, dims: Sizes, device: torch.device) -> torch.Tensor | None:
    """[s, t], true where a query sees a key; None where each sees all."""
    s, p, t = dims["s"], dims["p"], keys_at_hand(params, dims)
    window, chunk = integer(params, "window"), int(params.get("chunk") or 0)
    if all_visible(params, dims):
        return None
    query = torch.arange(p, p + s, device=device)[:, None]
    key = torch.arange(p + s - t, p + s, device=device)[None, :]
    seen = key <= query
    if window:
        seen &= query - key < window
    if chunk:
        seen &= query // chunk == key // chunk
    return seen


def plain_causal(params: Params, dims: Sizes) -> bool:
    """Whether the mask is the causal one of a fresh prompt, which every kernel knows by a flag."""
    window, chunk = integer(params, "window"), int(params.get("chunk") or 0)
    whole = keys_at_hand(params, dims)
    hidden = (window and whole > window) or (chunk and dims["p"] + dims["s"] > chunk)
    return flag(params, "causal") and not hidden and dims["p"] == 0


class EagerAttention(Variant):
    """Scores, mask, softmax and weighted sum as separate operators, with soft cap and sinks."""

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if params.get("bias", "none") != "none":
            return f"knows no {params['bias']} bias"
        return None

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        return {**inputs, "mask": visible(params, dims, inputs["q"].device)}

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if cap := params.get("softcap"):
            scores = torch.tanh(scores / cap) * cap
        if inputs["mask"] is not None:
            scores = scores.masked_fill(~inputs["mask"], float("-inf"))
        wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
        if inputs["sinks"] is not None:
            sinks = inputs["sinks"].view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], -1)
            weights = torch.softmax(scores, -1, dtype=wide)[..., :-1]
        else:
            weights = torch.softmax(scores, -1, dtype=wide)
        return (weights.to(v.dtype) @ v,)


class Sdpa(Variant):
    """A subclass names the backend of torch's scaled_dot_product_attention in `backend`.

    Where the mask is not the plain causal one it goes in as a tensor: the kernel then works on all pairs.
    """

    needs = Needs(device_types=("cuda",), capability=(8, 0), dtypes=GPU_DTYPES)
    backend: SDPBackend

    largest_head: int = 0  # of keys and values, where the backend has a limit

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        size = max(integer(params, "head_dim"), integer(params, "v_head_dim"))
        if self.largest_head and size > self.largest_head:
            return f"takes heads up to {self.largest_head}, not {size}"
        return no_extras(params) or too_many_pairs(params, dims)

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        if plain_causal(params, dims):
            return {**inputs, "mask": None, "causal": dims["s"] > 1}
        mask = visible(params, dims, inputs["q"].device)
        return {**inputs, "mask": None if mask is None else mask[None, None], "causal": False}

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        with sdpa_kernel(self.backend):
            out = functional.scaled_dot_product_attention(
                inputs["q"],
                inputs["k"],
                inputs["v"],
                attn_mask=inputs["mask"],
                is_causal=inputs["causal"],
                enable_gqa=inputs["q"].shape[1] != inputs["k"].shape[1],
            )
        return (out,)


class Flash(Variant):
    """torch's own copy of FlashAttention 2, called below scaled_dot_product_attention, which hides its window.

    The causal mask ends at the last key and the window is part of the kernel, so hidden pairs cost nothing. A sink
    takes the share exp(sink) / (sum + exp(sink)) of the softmax: with the logarithm of the sum, which the kernel
    returns, what is left of each output is sigmoid(log sum - sink).
    """

    needs = Needs(
        device_types=("cuda",), capability=(8, 0), capability_below=(10, 0), dtypes=GPU_DTYPES
    )
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if extras := no_extras({**params, "sinks": False}):
            return extras
        if (chunk := int(params.get("chunk") or 0)) and not (
            dims and dims["p"] + dims["s"] <= chunk
        ):
            return "knows no chunks"
        if params["head_dim"] != params["v_head_dim"]:
            return f"takes values of the size of keys, not {params['v_head_dim']} beside {params['head_dim']}"
        size = integer(params, "head_dim")
        return f"takes heads up to 256, not {size}" if size > 256 or size % 8 else None

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, k, v = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
        window, t = integer(params, "window"), k.shape[1]
        hides = bool(window) and t > window
        sides: dict[str, Any] = {  # Any: keyword arguments of a torch operator
            "window_size_left": window - 1 if hides else None,
            "window_size_right": 0 if hides else None,
        }
        causal = flag(params, "causal") and (dims["s"] > 1 or hides)
        out = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], t, 0.0, causal, False, **sides
        )
        found = out[0].transpose(1, 2)
        if inputs["sinks"] is not None:
            left = torch.sigmoid(out[1] - inputs["sinks"][:, None].float())  # [b, H, s]
            found = found * left[..., None].to(found.dtype)
        return (found,)


def no_extras(params: Params) -> str | None:
    """Why kernels that know the plain softmax only do not do this op."""
    if params.get("bias", "none") != "none":
        return f"knows no {params['bias']} bias"
    if params.get("softcap"):
        return "knows no soft cap"
    return "knows no sinks" if params.get("sinks") else None


def too_many_pairs(params: Params, dims: Sizes) -> str | None:
    """Why a mask as a tensor is not made: it would be larger than what it masks."""
    if not dims or plain_causal(params, dims) or dims["s"] == 1:
        return None
    pairs = dims["s"] * keys_at_hand(params, dims)
    return f"would need a mask of {pairs} pairs" if pairs > 2**30 else None
