"""Grouped products in fp8 with a scale per block, in Triton: torch 2.11 has grouped products with scales per row alone.

Imported where it runs, since not every torch brings Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from oplib.kernels.gemm import BLOCK


@triton.jit  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    x, x_scale, w, w_scale, out, source, ends,
    experts, n, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEEP: tl.constexpr, EXPERTS: tl.constexpr,
    BAND: tl.constexpr, GATHERED: tl.constexpr,
):  # fmt: skip
    """One tile of ROWS x COLUMNS of one expert. Tiles are numbered in bands of BAND tiles of rows, which read the same
    columns of w one after the other while these are in the cache.

    torch.compile copies this text to where Triton's names are known and no others: no annotation says Any.
    """
    columns = tl.cdiv(n, COLUMNS)
    tiles = tl.num_programs(0) // columns
    band = tl.program_id(0) // (BAND * columns)
    height = tl.minimum(tiles - band * BAND, BAND)
    place = tl.program_id(0) % (BAND * columns)
    tile = band * BAND + place % height
    column = place // height

    every = tl.arange(0, EXPERTS)
    end = tl.load(ends + every, mask=every < experts, other=0)
    start = tl.load(ends + every - 1, mask=(every > 0) & (every < experts), other=0)
    held = tl.where(every < experts, tl.cdiv(end - start, ROWS), 0)
    upto = tl.cumsum(held, 0)
    expert = tl.sum((upto <= tile).to(tl.int32), 0)
    if expert >= experts:
        return
    mine = every == expert
    first = tl.sum(tl.where(mine, start + (tile - upto + held) * ROWS, 0), 0)
    last = tl.sum(tl.where(mine, end, 0), 0)

    row = first + tl.arange(0, ROWS)
    inside = row < last
    origin = tl.load(source + row, mask=inside, other=0) if GATHERED else row
    at = column * COLUMNS + tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEEP)
    blocks = k // DEEP
    x_at = x + origin.to(tl.int64)[:, None] * k + deep[None, :]
    w_at = w + expert.to(tl.int64) * n * k + at.to(tl.int64)[None, :] * k + deep[:, None]
    x_scale_at = x_scale + origin * blocks
    w_scale_at = w_scale + (expert * (n // DEEP) + column * COLUMNS // DEEP) * blocks
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for block in range(blocks):
        left = tl.load(x_at + block * DEEP, mask=inside[:, None], other=0.0)
        right = tl.load(w_at + block * DEEP)
        scale = tl.load(x_scale_at + block, mask=inside, other=0.0) * tl.load(w_scale_at + block)
        total += tl.dot(left, right) * scale[:, None]
    tl.store(
        out + row.to(tl.int64)[:, None] * n + at[None, :],
        total.to(out.dtype.element_ty),
        mask=inside[:, None],
    )


def grouped_product(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    ends: torch.Tensor,
    source: torch.Tensor | None,
    pairs: int,
) -> torch.Tensor:
    """Rows of x, each times the matrix of its expert, in bfloat16.

    Args:
        x: [rows, k] in fp8, with x_scale [rows, k/128].
        w: [experts, n, k] in fp8, with w_scale [experts, n/128, k/128]; n and k are multiples of 128.
        ends: int32, [experts]: where the pairs of each expert end, sorted by expert.
        source: the row of x of each pair; None where they are the rows as they lie.
        pairs: how many there are, at least 1.

    Returns:
        [pairs, n].
    """
    (experts, n, k), out = w.shape, x.new_empty((pairs, w.shape[1]), dtype=torch.bfloat16)
    rows, wide, band, warps, stages = _shape(pairs / experts, k)
    tiles = min(experts, pairs) + pairs // rows  # at most: the last of each expert is partly empty
    _product[(tiles * (n // wide),)](
        x, x_scale, w, w_scale, out, ends if source is None else source, ends,
        experts, n, k,
        ROWS=rows, COLUMNS=wide, DEEP=BLOCK, EXPERTS=triton.next_power_of_2(experts),
        BAND=band, GATHERED=source is not None, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _shape(mean: float, k: int) -> tuple[int, int, int, int, int]:
    """Rows and columns of a tile, tiles of a band, warps and stages, for so many pairs an expert.

    Found on an H100 over 35 products: 31 within 5 % of the best of twelve shapes, one 39 % slower (m 1, n 512).
    """
    if k <= 4 * BLOCK and mean <= 8:
        return 16, 128, 8, 4, 3
    return (64, 128, 8, 4, 3) if k <= 4 * BLOCK or mean <= 200 else (128, 128, 8, 8, 4)
