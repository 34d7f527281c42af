"""The recurrence of the real-gated linear recurrent unit; in generation one step over a state not touched lately.

Inputs: x[b, s, channels], decay[b, s, channels] in 0 to 1; state[b, channels] or None at the start of a prompt.
"""

from __future__ import annotations

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, integer, text

_SIZES = {"channels": 72, "dtype": "bfloat16", "state_dtype": "float32"}
EXAMPLES = (
    ({**_SIZES, "phase": "context"}, {"b": 2, "s": 19}),
    ({**_SIZES, "phase": "context"}, {"b": 1, "s": 1}),
    ({**_SIZES, "phase": "generation"}, {"b": 3, "s": 1}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Activations, decays and state."""
    b, s, dtype = dims["b"], dims["s"], DTYPES[text(params, "dtype")]
    channels = integer(params, "channels")
    goes_on = text(params, "phase") == "generation"
    kind = DTYPES[text(params, "state_dtype")]
    return {
        "x": source.activation((b, s, channels), dtype),
        "decay": source.uniform((b, s, channels), 0.5, 1.0, dtype),
        "state": source.weight((b, channels), kind) if goes_on else None,
    }
