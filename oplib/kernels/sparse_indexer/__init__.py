"""Scores that select keys for sparse attention.

Inputs, H scoring heads of D, t keys at hand: q[b, s, H, D], k[b, t, D], w[b, s, H] in float32 or None. The output is
the scores of the selected keys, the largest first, 0 where a query sees fewer keys than are selected; which keys they
are comes with them, and is not compared, because rounding orders equal scores in its own way.
"""

from __future__ import annotations

import torch

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

_SIZES = {"num_heads": 5, "head_dim": 32, "topk": 8, "dtype": "bfloat16"}
EXAMPLES = (
    (_SIZES, {"b": 2, "s": 19, "p": 0}),
    ({**_SIZES, "weighted_sum": "none", "ratio": 4}, {"b": 1, "s": 9, "p": 31}),
    ({**_SIZES, "topk": 0}, {"b": 2, "s": 3, "p": 5}),
    (_SIZES, {"b": 3, "s": 1, "p": 130}),
)


def keys_at_hand(params: Params, dims: Sizes) -> int:
    """Keys that have come, at least one."""
    return max((dims["p"] + dims["s"]) // integer(params, "ratio"), 1)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Queries, keys in the cache, weights of the heads."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    heads, size = integer(params, "num_heads"), integer(params, "head_dim")
    weighted = text(params, "weighted_sum") != "none"
    return {
        "q": source.activation((b, s, heads, size), dtype),
        "k": source.weight((b, keys_at_hand(params, dims), size), dtype),
        "w": source.activation((b, s, heads), torch.float32) if weighted else None,
    }
