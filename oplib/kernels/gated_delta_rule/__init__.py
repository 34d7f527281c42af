"""The gated delta rule; in generation one step over a state that was not touched lately.

Inputs, K the size of keys, V of values, H value heads: q and k[b, s, num_k_heads, K], v[b, s, H, V], beta[b, s, H] in
0 to 1, gate[b, s, H] or [b, s, H, K], the float32 logarithm of what is kept; state[b, H, K, V] or None at the start of
a prompt. The kernels scale q and k to unit length themselves, and q by 1/√K.
"""

from __future__ import annotations

import torch

from oplib.kernels.bound_functions import delta_rule as bind
from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

__all__ = ["EXAMPLES", "bind", "inputs"]

_SIZES = {
    "num_k_heads": 2, "num_v_heads": 4, "head_k_dim": 64, "head_v_dim": 32, "dtype": "bfloat16",
    "state_dtype": "float32",
}  # fmt: skip
EXAMPLES = (
    ({**_SIZES, "phase": "context"}, {"b": 2, "s": 71}),
    ({**_SIZES, "phase": "context", "gate": "channel"}, {"b": 1, "s": 5}),
    ({**_SIZES, "phase": "generation", "chunk_size": 1}, {"b": 3, "s": 1}),
    ({**_SIZES, "phase": "generation", "chunk_size": 1, "gate": "channel"}, {"b": 3, "s": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Activations, gates and state."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    k_heads, heads, k, v = (
        integer(params, name) for name in ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
    )
    gates = (b, s, heads, k) if text(params, "gate") == "channel" else (b, s, heads)
    goes_on = text(params, "phase") == "generation"
    state_dtype = DTYPES[text(params, "state_dtype")]
    return {
        "q": source.activation((b, s, k_heads, k), dtype),
        "k": source.activation((b, s, k_heads, k), dtype),
        "v": source.activation((b, s, heads, v), dtype),
        "beta": source.uniform((b, s, heads), 0.0, 1.0, dtype),
        "gate": source.uniform(gates, -0.2, -0.001, torch.float32),
        "state": source.weight((b, heads, k, v), state_dtype) if goes_on else None,
    }
