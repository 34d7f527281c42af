"""A linear layer over a weight that was not touched lately.

Inputs: x[m, k], w[n, k], bias[n] or None. Quantised modes add x_scale and w_scale, by which the stored values are
multiplied: one number each (fp8), or one per 128 of a row of x and per 128 x 128 block of w (fp8_block).
"""

from __future__ import annotations

from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes
from oplib.params import Params, flag, integer, text

EXAMPLES = (
    ({"n": 33, "k": 47, "dtype": "bfloat16", "bias": True}, {"m": 5}),
    ({"n": 264, "k": 200, "dtype": "float16"}, {"m": 1}),
    ({"n": 40, "k": 72, "dtype": "float32"}, {"m": 9}),
    ({"n": 48, "k": 144, "dtype": "fp8"}, {"m": 19}),
    ({"n": 32, "k": 64, "dtype": "fp8", "bias": True}, {"m": 1}),
    ({"n": 256, "k": 640, "dtype": "fp8_block"}, {"m": 7}),
    ({"n": 384, "k": 256, "dtype": "fp8_block"}, {"m": 130}),
)

BLOCK = 128
QUANTISED = ("fp8", "fp8_block")


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """x, w, bias and the scales of a quantised mode."""
    m, n, k, mode = dims["m"], integer(params, "n"), integer(params, "k"), text(params, "dtype")
    stored = DTYPES["fp8"] if mode in QUANTISED else DTYPES[mode]
    found: Inputs = {
        "x": source.activation((m, k), stored),
        "w": source.weight((n, k), stored),
        "bias": None,
    }
    wide = DTYPES["bfloat16"] if mode in QUANTISED else stored
    if flag(params, "bias"):
        found["bias"] = source.weight((n,), wide)
    if mode in QUANTISED:
        of_x, of_w = ((), ()) if mode == "fp8" else _blocks(m, n, k)
        found["x_scale"] = source.uniform(of_x, 0.5, 1.5, DTYPES["float32"])
        found["w_scale"] = source.uniform(of_w, 0.01, 0.03, DTYPES["float32"])
    return found


def _blocks(m: int, n: int, k: int) -> tuple[tuple[int, int], tuple[int, int]]:
    blocks = -(-k // BLOCK)
    return (m, blocks), (-(-n // BLOCK), blocks)
