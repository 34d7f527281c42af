"""A fused cluster of elementwise work over tensors that were just written.

The op knows the bytes read and written and the names of the functions, not the shapes, so a cluster of as many tensors
of one size is made up: `form` says how many. Inputs: tensors[rows, width], and scale[width], which norms multiply by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oplib.dtypes import storage_bytes
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
    ({"functions": "ge+where", "dtype": "bool"}, {"read": 2 * 999, "written": 999}),
)

REDUCTIONS = frozenset({"mean", "sum", "softmax", "amax", "norm", "rms_norm", "layer_norm", "var"})
_WIDTH = 4096  # of a row where the bytes do not tell
_ROW = 32768  # elements of the widest row that a norm works on
_TENSORS = 6  # read or written by one cluster, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """`read` tensors in, `written` out, of `rows` x `width` elements each; with `scaled` a row of weights besides."""

    read: int
    written: int
    rows: int
    width: int
    scaled: bool


def form(params: Params, dims: Sizes) -> Form:
    """The tensors whose bytes come closest to those of the op.

    A norm reads its weight once, whatever the rows: what is left of `read` beyond whole tensors is taken for it and
    tells the width of a row.
    """
    size = storage_bytes(text(params, "dtype"))
    read, written = max(dims["read"], size), max(dims["written"], size)
    reduces = bool(REDUCTIONS & set(text(params, "functions").split("+")))
    best = min(
        ((i, j) for j in range(1, _TENSORS + 1) for i in range(1, _TENSORS + 1)),
        key=lambda pair: (_misfit(read, written, *pair, size=size), sum(pair)),
    )
    elements = max(round(written / best[1] / size), 1)
    spare = round(read / size) - best[0] * elements
    width = spare if reduces and 0 < spare <= min(elements, _ROW) else min(_WIDTH, elements)
    width = next(size for size in range(width, 0, -1) if elements % size == 0 or size == 1)
    return Form(
        read=best[0], written=best[1], rows=max(round(elements / width), 1), width=width,
        scaled=reduces,
    )  # fmt: skip


def _misfit(read: int, written: int, ins: int, outs: int, *, size: int) -> float:
    """How far `ins` tensors of written/outs bytes are from what is read, in steps of 2 % so that few tensors win."""
    per = written / outs
    allowance = _ROW * size  # a row of weights
    away = max(abs(read - ins * per) - (allowance if read > ins * per else 0), 0)
    return round(away / read / 0.02)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """The tensors of `form`."""
    shape, dtype = form(params, dims), _torch_dtype(text(params, "dtype"))
    size = (shape.rows, shape.width)
    floating = dtype.is_floating_point
    make = source.activation if floating else lambda s, _: source.integers(s, 2).to(dtype)
    return {
        "tensors": [make(size, dtype) for _ in range(shape.read)],
        "scale": source.weight((shape.width,), dtype) if shape.scaled and floating else None,
        "written": shape.written,
    }


def _torch_dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)  # the kind's dtypes have torch's names, fp8 apart
    return found
