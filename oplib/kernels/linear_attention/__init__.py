"""Linear attention with a fixed decay per head; in generation one step over a state that was not touched lately.

Inputs: q and k[b, s, H, K], v[b, s, H, V], decay[H] below zero, the logarithm of what a token keeps; state[b, H, K, V]
or None at the start of a prompt.
"""

from __future__ import annotations

import torch

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

_SIZES = {
    "num_heads": 3, "head_k_dim": 32, "head_v_dim": 24, "chunk_size": 8, "dtype": "bfloat16",
    "state_dtype": "float32",
}  # fmt: skip
EXAMPLES = (
    ({**_SIZES, "phase": "context"}, {"b": 2, "s": 19}),
    ({**_SIZES, "phase": "context"}, {"b": 1, "s": 3}),
    ({**_SIZES, "phase": "generation"}, {"b": 3, "s": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Activations, decays and state."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    heads, k, v = (integer(params, name) for name in ("num_heads", "head_k_dim", "head_v_dim"))
    kind = DTYPES[text(params, "state_dtype")]
    goes_on = text(params, "phase") == "generation"
    return {
        "q": source.activation((b, s, heads, k), dtype),
        "k": source.activation((b, s, heads, k), dtype),
        "v": source.activation((b, s, heads, v), dtype),
        "decay": source.uniform((heads,), -0.5, -0.005, torch.float32),
        "state": source.weight((b, heads, k, v), kind) if goes_on else None,
    }
