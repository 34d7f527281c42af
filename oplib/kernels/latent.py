"""What the slots context_mla and generation_mla share: inputs in both forms, and the ways to run them."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from oplib.attention_work import cached_tokens
from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer, text


def keys_at_hand(params: Params, dims: Sizes) -> int:
    """Cached keys that are there, and the new ones."""
    cached: int = cached_tokens(dims["p"], params, integer(params, "window"))
    return cached + dims["s"]


def scale(params: Params) -> float:
    """What scores are multiplied by: the size of an expanded key, in either form."""
    size = integer(params, "qk_nope_head_dim") + integer(params, "qk_rope_head_dim")
    return float(size**-0.5)


def latent_inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Expanded: q, k[b, H, ., N+R], v[b, H, t, V], as projections leave them. Absorbed: q[b, H, s, L+R] and
    latent[b, t, L+R], the cache, in which the new tokens already are."""
    b, s, heads = dims["b"], dims["s"], integer(params, "num_heads")
    dtype, t = DTYPES[text(params, "dtype")], keys_at_hand(params, dims)
    rope, rank = integer(params, "qk_rope_head_dim"), integer(params, "kv_lora_rank")
    if flag(params, "absorbed"):
        # a projected query has the deviation of a sum over N weights: it is scaled to that of a plain one
        q = source.activation((b, s, heads, rank + rope), dtype).transpose(1, 2)
        return {"q": q, "latent": source.weight((b, t, rank + rope), dtype)}
    size = integer(params, "qk_nope_head_dim") + rope
    return {
        "q": source.activation((b, s, heads, size), dtype).transpose(1, 2),
        "k": source.weight((b, t, heads, size), dtype).transpose(1, 2),
        "v": source.weight((b, t, heads, integer(params, "v_head_dim")), dtype).transpose(1, 2),
    }


def visible(params: Params, dims: Sizes, device: torch.device) -> torch.Tensor | None:
    """[s, t], true where a query sees a key; None where each sees all."""
    s, t, window = dims["s"], keys_at_hand(params, dims), integer(params, "window")
    if not flag(params, "causal") or (s == 1 and (not window or t <= window)):
        return None
    query = torch.arange(t - s, t, device=device)[:, None]
    key = torch.arange(t, device=device)[None, :]
    seen = key <= query
    return seen & (query - key < window) if window else seen


class EagerLatent(Variant):
    """Scores, mask, softmax and weighted sum as separate operators, in both forms."""

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        return {**inputs, "mask": visible(params, dims, inputs["q"].device)}

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, mask = inputs["q"], inputs["mask"]
        if "latent" in inputs:
            b, heads, s, width = q.shape
            latent = inputs["latent"]
            values = latent[..., : integer(params, "kv_lora_rank")]
            flat = q.reshape(b, heads * s, width)
            scores = (flat @ latent.transpose(1, 2)).view(b, heads, s, -1)
            weights = _softmax(scores * scale(params), mask).to(q.dtype)
            out = weights.reshape(b, heads * s, -1) @ values
            return (out.view(b, heads, s, -1),)
        scores = q @ inputs["k"].transpose(2, 3) * scale(params)
        return (_softmax(scores, mask).to(q.dtype) @ inputs["v"],)


def _softmax(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    return torch.softmax(scores, -1, dtype=wide)


class SdpaLatent(Variant):
    """scaled_dot_product_attention; a subclass names the backends.

    Expanded: keys and values of different size. Absorbed: all heads of a sequence are queries of one head, so the mask
    of several new tokens repeats for each.
    """

    needs = Needs(device_types=("cuda",), capability=(8, 0), dtypes=("bfloat16", "float16"))
    backends: tuple[SDPBackend, ...]

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if dims and dims["s"] * keys_at_hand(params, dims) > 2**30:
            return "would need too large a mask"
        return None

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        q, causal = inputs["q"], flag(params, "causal") and dims["p"] == 0
        plain = causal and not params["window"] and "latent" not in inputs
        mask = None if plain else visible(params, dims, q.device)
        if "latent" in inputs:
            latent = inputs["latent"][:, None]
            mask = None if mask is None else mask.repeat(q.shape[1], 1)
            values = latent[..., : integer(params, "kv_lora_rank")]
            return {"q": q, "k": latent, "v": values, "mask": mask, "causal": False}
        return {**inputs, "mask": mask, "causal": plain and dims["s"] > 1}

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        b, heads, s, width = q.shape
        if k.shape[1] != heads:
            q = q.reshape(b, 1, heads * s, width)
        with sdpa_kernel(list(self.backends)):
            out = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=inputs["mask"], is_causal=inputs["causal"], scale=scale(params)
            )
        return (out.reshape(b, heads, s, -1),)


class FlashPadded(Variant):
    """FlashAttention 2 as torch ships it, values padded to the size of keys; expanded form only."""

    needs = Needs(
        device_types=("cuda",), capability=(8, 0), capability_below=(10, 0),
        dtypes=("bfloat16", "float16"),
    )  # fmt: skip

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if flag(params, "absorbed"):
            return "takes heads up to 256, not a latent"
        return "knows no window" if params["window"] else None

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, k, v = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
        size = v.shape[-1]
        padded = functional.pad(v, (0, k.shape[-1] - size))
        out = torch.ops.aten._flash_attention_forward(
            q, k, padded, None, None, q.shape[1], k.shape[1], 0.0,
            flag(params, "causal") and dims["s"] > 1, False, scale=scale(params),
        )  # fmt: skip
        return (out[0][..., :size].transpose(1, 2),)
