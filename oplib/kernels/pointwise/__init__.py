"""A fused cluster of elementwise work over tensors that were just written.

The op knows the bytes read and written and the names of the functions, not the shapes, so a cluster of as many tensors
of one size is made up: `oplib.cluster_form` says how many. Inputs: tensors[rows, width], scale[width], which norms
multiply by; with a table[G, 1, width] that is broadcast over R rows, tensors[G, R, width].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from oplib.cluster_form import form
from oplib.kernels.source import Source
from oplib.kernels.variant import Inputs, Sizes
from oplib.params import Params, text

EXAMPLES = (
    (
        {"functions": "add+mean+mul+pow+rsqrt", "dtype": "bfloat16"},
        {"read": 4 * 37 * 200 + 400, "written": 4 * 37 * 200},
    ),
    ({"functions": "mul+silu", "dtype": "bfloat16"}, {"read": 4 * 999, "written": 2 * 999}),
    ({"functions": "to", "dtype": "float32"}, {"read": 4004, "written": 4004}),
    ({"functions": "mul", "dtype": "float32"}, {"read": 4004, "written": 8008}),
    (
        {"functions": "add+cat+mean+mul+neg+pow+rsqrt", "dtype": "bfloat16"},
        {"read": 2 * 35 * (1024 + 256) + 256, "written": 2 * 35 * 1024},
    ),
    ({"functions": "add+cat+mul+neg", "dtype": "float32"}, {"read": 5040, "written": 4032}),
    ({"functions": "ge+where", "dtype": "bool"}, {"read": 2 * 999, "written": 999}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """The tensors of `form`. A table was written long before, as those of positions are: it is in no cache."""
    shape, dtype = form(params, dims), _torch_dtype(text(params, "dtype"))
    size: tuple[int, ...] = (shape.rows, shape.width)
    if shape.table:
        size = (shape.rows // shape.repeats, shape.repeats, shape.width)
    floating = dtype.is_floating_point

    def integers(size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return source.integers(size, 2).to(dtype)

    make, old = (source.activation, source.weight) if floating else (integers, integers)
    return {
        "tensors": [make(size, dtype) for _ in range(shape.read)],
        "scale": source.weight((shape.width,), dtype) if shape.scaled and floating else None,
        "table": old((size[0], 1, shape.width), dtype) if shape.table else None,
        "written": shape.written,
    }


def _torch_dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)  # the kind's dtypes have torch's names, fp8 apart
    return found
