"""Attention as one node, through transformers' attention registry.

Shapes: B batch, H query heads, K key/value heads, S new tokens, T visible tokens, D head dim, V value head dim.
"""

from __future__ import annotations

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from . import IMPLEMENTATION, define


def _fake(query, key, value, *_args):
    """(B,H,S,D), (B,K,T,D), (B,K,T,V) -> (B,S,H,V), contiguous as every transformers implementation returns it."""
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


_OP = define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? sinks, Tensor? bias, Tensor? indices, "
    "float scale, bool causal, int window, int chunk, float softcap) -> Tensor",
    _fake,
    split={"query": 1, "key": 1, "value": 1, "sinks": 0, "out0": 2},
)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    **_kwargs,
) -> tuple[torch.Tensor, None]:
    """The attention function that the registry hands to the model: same arguments, one node."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _OP(
        query, key, value, attention_mask, s_aux, position_bias, indices,
        float(scale), bool(causal), int(sliding_window or 0), _chunk(module), float(softcap or 0.0),
    )  # fmt: skip
    return out, None


def _chunk(module: torch.nn.Module) -> int:
    """Tokens of a chunk where the layer attends within chunks only: that restriction lives in the mask alone."""
    config, index = getattr(module, "config", None), getattr(module, "layer_idx", None)
    types = getattr(config, "layer_types", None)
    if config is None or types is None or index is None or types[index] != "chunked_attention":
        return 0
    return int(config.attention_chunk_size)


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, eager_mask)
