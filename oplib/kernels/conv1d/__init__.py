"""A convolution over time that mixes channels within groups.

Inputs: x[b, in_channels, s + dilation·(kernel_size - 1)], padding included, w[out_channels, in_channels/groups,
kernel_size], bias[out_channels] or None.
"""

from __future__ import annotations

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, flag, integer, text

_SIZES = {"in_channels": 24, "out_channels": 16, "kernel_size": 3, "dtype": "bfloat16"}
EXAMPLES = (
    (_SIZES, {"b": 2, "s": 19}),
    ({**_SIZES, "groups": 8, "dilation": 2, "bias": True}, {"b": 1, "s": 5}),
    ({**_SIZES, "kernel_size": 4}, {"b": 3, "s": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """x, w and bias."""
    dtype = DTYPES[text(params, "dtype")]
    ins, outs, taps = (integer(params, n) for n in ("in_channels", "out_channels", "kernel_size"))
    length = dims["s"] + integer(params, "dilation") * (taps - 1)
    return {
        "x": source.activation((dims["b"], ins, length), dtype),
        "w": source.weight((outs, ins // integer(params, "groups"), taps), dtype),
        "bias": source.weight((outs,), dtype) if flag(params, "bias") else None,
    }
