"""Attention of many new tokens over the cache and themselves.

Inputs: those of `oplib.kernels.attention.attention_inputs`.
"""

from __future__ import annotations

from oplib.kernels.attention import attention_inputs as inputs
from oplib.kernels.bound_attention import plain as bind

__all__ = ["EXAMPLES", "bind", "inputs"]

_HEADS = {
    "num_heads": 6, "num_kv_heads": 2, "head_dim": 64, "v_head_dim": 64, "dtype": "bfloat16", "kv_dtype": "bfloat16",
}  # fmt: skip
EXAMPLES = (
    (_HEADS, {"b": 2, "s": 37, "p": 0}),
    ({**_HEADS, "num_kv_heads": 6}, {"b": 1, "s": 129, "p": 0}),
    (_HEADS, {"b": 3, "s": 5, "p": 33}),
    ({**_HEADS, "window": 16}, {"b": 2, "s": 37, "p": 29}),
    ({**_HEADS, "window": 16}, {"b": 1, "s": 37, "p": 0}),
    ({**_HEADS, "chunk": 16}, {"b": 2, "s": 37, "p": 5}),
    ({**_HEADS, "sinks": True, "softcap": 30.0}, {"b": 2, "s": 9, "p": 5}),
    ({**_HEADS, "head_dim": 256, "v_head_dim": 256}, {"b": 1, "s": 33, "p": 0}),
)
