"""Pools of keys, and what a query sees of them, where a model finds both by masks of padding.

How many pools are complete is then a value of the data, which no tensor has here. Sequences are not padded: the N
tokens of each leave N // R pools, and a query sees all tokens up to its own. The functions compute that from
positions, with the operators that the model pools by.

Shapes: B batch, S new tokens, N all tokens, D key size, R tokens of a pool, M = N // R complete pools.
"""

from __future__ import annotations

import torch

from . import replaces_method


@replaces_method("get_pooled_states", "packed_states")
def get_pooled_states(module, packed_states):
    """Keys, gates and validity (B,N,2D + 1) -> pooled keys (B,M,D), their tokens (B,M,R), and that they count (B,M)."""
    size, ratio = module.head_dim, module.index_kpool
    keys, gates, _ = torch.split(packed_states, [size, size, 1], dim=-1)
    batch, pools = keys.shape[0], keys.shape[1] // ratio
    if pools:
        keys, gates = (x.unfold(1, ratio, ratio).transpose(2, 3) for x in (keys, gates))
    else:
        keys, gates = (x.new_empty(batch, 0, ratio, size) for x in (keys, gates))
    logits = gates.float() + module.index_kpool_compress_ape.float()
    pooled = (logits.softmax(dim=2).to(keys.dtype) * keys).sum(dim=2)
    places = (torch.arange(n, device=keys.device) for n in (pools, ratio))
    first, offset = (place.unsqueeze(1 - i) for i, place in enumerate(places))
    tokens = (first * ratio + offset).expand(batch, -1, -1)
    return pooled, tokens, tokens[..., 0] >= 0


@replaces_method("get_visible_tokens", "valid_keys", "q_length", "current_length")
def get_visible_tokens(_module, valid_keys, q_length, current_length):
    """Validity of keys (B,N) -> which of them each query sees (B,S,N)."""
    keys = torch.arange(valid_keys.shape[-1], device=valid_keys.device)
    queries = current_length - q_length + torch.arange(q_length, device=valid_keys.device)
    return (keys <= queries[:, None]).expand(valid_keys.shape[0], -1, -1)


@replaces_method("append_visible_tail", "topk_indices", "token_visible", "key_valid")
def append_visible_tail(module, topk_indices, token_visible, key_valid):
    """Chosen tokens (B,S,K), visible ones (B,S,N) -> (B,S,K + R - 1): those behind the last complete pool, else -1."""
    seen = token_visible.sum(-1, keepdim=True)
    behind = seen % module.index_kpool
    offsets = torch.arange(module.index_kpool - 1, device=topk_indices.device)
    tail = (seen - behind + offsets).masked_fill(offsets >= behind, -1)
    return torch.cat([topk_indices, tail], dim=-1)
