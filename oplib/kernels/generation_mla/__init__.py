"""Latent attention of the newest token over its cache.

Inputs: those of `oplib.kernels.latent.latent_inputs`.
"""

from __future__ import annotations

from oplib.kernels.bound_attention import latent as bind
from oplib.kernels.latent import latent_inputs as inputs

__all__ = ["EXAMPLES", "bind", "inputs"]

_HEADS = {
    "num_heads": 4, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "dtype": "bfloat16", "kv_dtype": "bfloat16",
}  # fmt: skip
EXAMPLES = (
    ({**_HEADS, "absorbed": True}, {"b": 3, "s": 1, "p": 36}),
    ({**_HEADS, "absorbed": True}, {"b": 1, "s": 1, "p": 1030}),
    ({**_HEADS, "absorbed": False}, {"b": 3, "s": 1, "p": 36}),
)
