"""The weighted average of RWKV 4; in generation one step over a state that was not touched lately.

Inputs: k and v[b, s, channels], decay[channels] above zero, bonus[channels]; state[b, channels, 3]: numerator,
denominator, and the maximum of the exponents that both are scaled by, or None at the start of a prompt.
"""

from __future__ import annotations

import torch

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

_SIZES = {"channels": 72, "dtype": "bfloat16", "state_dtype": "float32"}
EXAMPLES = (
    ({**_SIZES, "phase": "context"}, {"b": 2, "s": 19}),
    ({**_SIZES, "phase": "generation"}, {"b": 3, "s": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Activations, parameters of the channels and state; its denominators are above zero."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    channels, kind = integer(params, "channels"), DTYPES[text(params, "state_dtype")]
    goes_on = text(params, "phase") == "generation"
    return {
        "k": source.activation((b, s, channels), dtype),
        "v": source.activation((b, s, channels), dtype),
        "decay": source.uniform((channels,), 0.1, 2.0, torch.float32),
        "bonus": source.uniform((channels,), -1.0, 1.0, torch.float32),
        "state": source.uniform((b, channels, 3), 0.1, 1.0, kind) if goes_on else None,
    }
