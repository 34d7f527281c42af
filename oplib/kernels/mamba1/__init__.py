"""The Mamba 1 selective scan; in generation one step over a state that was not touched lately.

Inputs, N state elements: x and dt[b, s, d_inner], B and C[b, s, N], A[d_inner, N] below zero, D and dt_bias[d_inner];
state[b, d_inner, N] or None at the start of a prompt.
"""

from __future__ import annotations

import torch

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

_SIZES = {
    "d_inner": 96, "d_state": 16, "dt_rank": 6, "dtype": "bfloat16", "state_dtype": "float32",
}  # fmt: skip
EXAMPLES = (
    ({**_SIZES, "phase": "context"}, {"b": 2, "s": 19}),
    ({**_SIZES, "phase": "context"}, {"b": 1, "s": 1}),
    ({**_SIZES, "phase": "generation"}, {"b": 3, "s": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Activations, parameters of the channels and state."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    inner, n = integer(params, "d_inner"), integer(params, "d_state")
    kind = DTYPES[text(params, "state_dtype")]
    goes_on = text(params, "phase") == "generation"
    return {
        "x": source.activation((b, s, inner), dtype),
        "dt": source.activation((b, s, inner), dtype),
        "B": source.activation((b, s, n), dtype),
        "C": source.activation((b, s, n), dtype),
        "A": source.uniform((inner, n), -8.0, -0.5, torch.float32),
        "D": source.uniform((inner,), 0.5, 1.5, torch.float32),
        "dt_bias": source.uniform((inner,), -4.0, -2.0, torch.float32),
        "state": source.weight((b, inner, n), kind) if goes_on else None,
    }
