"""Independent matrix products of one shape.

Inputs: a[batch, m, k], b[batch, k, n]; b was not touched lately where it is a parameter (`shared_b`), else it was
just written.
"""

from __future__ import annotations

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, flag, integer, text

EXAMPLES = (
    ({"n": 33, "k": 47, "dtype": "bfloat16"}, {"batch": 3, "m": 5}),
    ({"n": 128, "k": 72, "dtype": "float16", "shared_b": True}, {"batch": 7, "m": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """a and b; n and k are dims where they depend on the lengths."""
    n, k = (dims[name] if name in dims else integer(params, name) for name in ("n", "k"))
    batch, m, dtype = dims["batch"], dims["m"], DTYPES[text(params, "dtype")]
    second = source.weight if flag(params, "shared_b") else source.activation
    return {"a": source.activation((batch, m, k), dtype), "b": second((batch, k, n), dtype)}
