"""Gated delta rule (GDN with one decay per head, KDA with one per channel) as one node.

Shapes: B batch, S tokens, K key heads, H value heads, D key head dim, V value head dim.
"""

from __future__ import annotations

import torch

from . import define, replaces


def _fake(query, key, value, g, beta, state, chunk_size):
    batch, _, heads, width = value.shape
    state = value.new_empty(batch, heads, key.shape[-1], width, dtype=torch.float32)
    return value.new_empty(value.shape, dtype=query.dtype), state


_OP = define(
    "gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor g, Tensor beta, Tensor? state, int chunk_size) "
    "-> (Tensor, Tensor)",
    _fake,
    split={"query": 2, "key": 2, "value": 2, "g": 2, "beta": 2, "state": 1, "out0": 2, "out1": 1},
)


@replaces("torch_chunk_gated_delta_rule", "chunk_kimi_delta_attention")
def chunked(
    query,
    key,
    value,
    g,
    beta,
    chunk_size=64,
    initial_state=None,
    output_final_state=False,
    **_kwargs,
):
    """(B,S,K,D) x2, (B,S,H,V), decay (B,S,H) or (B,S,H,D), (B,S,H) -> (B,S,H,V), state (B,H,D,V) or None."""
    out, state = _OP(query, key, value, g, beta, initial_state, chunk_size)
    return out, (state if output_final_state else None)


@replaces("torch_recurrent_gated_delta_rule", "recurrent_kimi_delta_attention")
def recurrent(query, key, value, g, beta, initial_state=None, output_final_state=False, **_kwargs):
    """The same over few tokens, step by step."""
    out, state = _OP(query, key, value, g, beta, initial_state, 0)
    return out, (state if output_final_state else None)
