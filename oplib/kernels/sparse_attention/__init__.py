"""Attention of each query over the keys that a selection left.

Inputs: those of plain heads (`oplib.kernels.attention`) or of latent ones (`oplib.kernels.latent`), and chosen[b, s, c]
in int64, the positions of the keys of each query, evenly spread over those it sees. Where a query sees fewer than topk
keys, the rest of its places are the position after the last key, which no query sees.
"""

from __future__ import annotations

import torch

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, flag, integer, text

_PLAIN = {
    "num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "v_head_dim": 32, "topk": 8, "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}  # fmt: skip
_LATENT = {
    "num_heads": 4, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "topk": 8,
    "dtype": "bfloat16", "kv_dtype": "bfloat16",
}  # fmt: skip
EXAMPLES = (
    (_PLAIN, {"b": 2, "s": 19, "p": 0}),
    (_PLAIN, {"b": 3, "s": 1, "p": 40}),
    (_LATENT, {"b": 2, "s": 9, "p": 5}),
    ({**_LATENT, "absorbed": True}, {"b": 2, "s": 9, "p": 21}),
    ({**_LATENT, "absorbed": True}, {"b": 3, "s": 1, "p": 50}),
    ({**_LATENT, "absorbed": True}, {"b": 1, "s": 1, "p": 2}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Queries, keys and values or the latent cache, and the selection."""
    b, s, t, dtype = dims["b"], dims["s"], dims["p"] + dims["s"], DTYPES[text(params, "dtype")]
    heads, rank, rope = (
        integer(params, n) for n in ("num_heads", "kv_lora_rank", "qk_rope_head_dim")
    )
    found: Inputs = {"chosen": selection(params, dims, source.device).expand(b, -1, -1)}
    if flag(params, "absorbed"):
        q = source.activation((b, s, heads, rank + rope), dtype).transpose(1, 2)
        return {**found, "q": q, "latent": source.weight((b, t, rank + rope), dtype)}
    value, groups = integer(params, "v_head_dim"), heads
    size = integer(params, "qk_nope_head_dim") + rope
    if not rank:
        size, groups = integer(params, "head_dim"), integer(params, "num_kv_heads")
    return {
        **found,
        "q": source.activation((b, s, heads, size), dtype).transpose(1, 2),
        "k": source.weight((b, groups, t, size), dtype),
        "v": source.weight((b, groups, t, value), dtype),
    }


def selection(params: Params, dims: Sizes, device: torch.device) -> torch.Tensor:
    """[1, s, c]: c = min(topk, keys at hand) positions of each query."""
    s, p = dims["s"], dims["p"]
    count = min(integer(params, "topk") or p + s, p + s)
    seen = torch.arange(p + 1, p + s + 1, device=device)[:, None]
    place = torch.arange(count, device=device)
    spread = torch.where(seen > count, place * seen // count, place)
    return torch.where(spread < seen, spread, p + s)[None]
