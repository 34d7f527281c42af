"""A short depthwise convolution over time that continues from a state.

Inputs: x[b, channels, s] as a projection leaves it (channels innermost), w[channels, taps], bias[channels] or None,
state[b, channels, taps - 1].
"""

from __future__ import annotations

from oplib.kernels.bound_functions import convolution as bind
from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, flag, integer, text

__all__ = ["EXAMPLES", "bind", "inputs"]

_FILTER = {"channels": 72, "kernel_size": 4, "dtype": "bfloat16", "activation": "silu"}
EXAMPLES = (
    ({**_FILTER, "bias": True}, {"b": 2, "s": 19}),
    (_FILTER, {"b": 3, "s": 1}),
    ({**_FILTER, "activation": "", "kernel_size": 3}, {"b": 1, "s": 2}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """x, w, bias and state."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    channels, taps = integer(params, "channels"), integer(params, "kernel_size")
    return {
        "x": source.activation((b, s, channels), dtype).transpose(1, 2),
        "w": source.weight((channels, taps), dtype),
        "bias": source.weight((channels,), dtype) if flag(params, "bias") else None,
        "state": source.weight((b, channels, taps - 1), dtype),
    }
