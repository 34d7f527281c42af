"""The Mamba 2 scan; in generation one step over a state that was not touched lately.

Inputs, H heads of P, G groups, N state elements: x[b, s, H, P], dt[b, s, H], B and C[b, s, G, N], A[H] below zero,
D[H], dt_bias[H]; state[b, H, P, N] or None at the start of a prompt.
"""

from __future__ import annotations

import torch

from oplib.kernels.bound_functions import scan as bind
from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

__all__ = ["EXAMPLES", "bind", "inputs"]

_SIZES = {
    "d_inner": 256, "d_state": 64, "num_heads": 4, "head_dim": 64, "n_groups": 2, "chunk_size": 16,
    "dtype": "bfloat16", "state_dtype": "float32",
}  # fmt: skip
EXAMPLES = (
    ({**_SIZES, "phase": "context"}, {"b": 2, "s": 37}),
    ({**_SIZES, "phase": "context"}, {"b": 1, "s": 5}),
    ({**_SIZES, "phase": "generation", "chunk_size": 1}, {"b": 3, "s": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Activations, per-head parameters and state."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    heads, size, groups, n = (
        integer(params, name) for name in ("num_heads", "head_dim", "n_groups", "d_state")
    )
    state_dtype = DTYPES[text(params, "state_dtype")]
    goes_on = text(params, "phase") == "generation"
    return {
        "x": source.activation((b, s, heads, size), dtype),
        "dt": source.activation((b, s, heads), dtype),
        "B": source.activation((b, s, groups, n), dtype),
        "C": source.activation((b, s, groups, n), dtype),
        "A": source.uniform((heads,), -4.0, -0.5, torch.float32),
        "D": source.uniform((heads,), 0.5, 1.5, torch.float32),
        "dt_bias": source.uniform((heads,), -4.0, -2.0, torch.float32),
        "state": source.weight((b, heads, size, n), state_dtype) if goes_on else None,
    }
