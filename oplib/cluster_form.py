"""The form of a pointwise cluster: as many tensors of one size as its bytes and functions suggest.

The op knows bytes and names of functions, not shapes. A cluster reads and writes whole tensors [rows, width], and
what it reads beside them is a row of weights, as of a norm, or a table that is broadcast over the rows, as that of a
rotary embedding. Numbers are of elements unless they say bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from oplib.dtypes import storage_bytes
from oplib.params import Params, text

REDUCTIONS = frozenset({"mean", "sum", "softmax", "amax", "norm", "rms_norm", "layer_norm", "var"})
_ROTATIONS = frozenset(
    {"cat", "stack"}
)  # that put the halves of rows together, where a table is beside the weights
_WIDTH = 4096  # of a row where the bytes do not tell
_ROW, _NARROW = (
    32768,
    16,
)  # the widest row that a norm works on, and the narrowest that bytes tell of
_SMALL = 8  # a tensor is that many times what a cluster without a norm may read beside
_REPEATS = 64  # rows for one of a table: where there are more it takes no time to read
_READ, _WRITTEN = 10, 6  # tensors of one cluster, at most
_PAIRS = sorted(itertools.product(range(1, _READ + 1), range(1, _WRITTEN + 1)), key=sum)
_STEP = 0.02  # of the bytes that are read: as bad as one tensor more
_TABLE = 5  # tensors that a table stands against, where it is no small one


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """`read` tensors in, `written` out, of `rows` x `width` elements each; with `scaled` a row of weights besides, and
    where `table` is above 0 a table of so many elements, whole rows each of which goes with `repeats` of the tensors.
    """

    read: int
    written: int
    rows: int
    width: int
    scaled: bool
    table: int = 0

    @property
    def repeats(self) -> int:
        """Rows of a tensor that a row of the table goes with; 1 where there is no table."""
        return self.rows * self.width // self.table if self.table else 1


def form(params: Params, dims: Mapping[str, int]) -> Form:
    """The fewest tensors whose bytes come close to those of the op."""
    size = storage_bytes(text(params, "dtype"))
    read, written = (max(round(dims[name] / size), 1) for name in ("read", "written"))
    names = text(params, "functions").split("+")
    norm = not REDUCTIONS.isdisjoint(names)
    return _form(read, written, norm, norm and not _ROTATIONS.isdisjoint(names))


@lru_cache(maxsize=1 << 14)
def _form(read: int, written: int, norm: bool, rotates: bool) -> Form:
    best: tuple[float, Form] | None = None
    for i, j in _PAIRS:
        if best is not None and i + j >= best[0]:
            break  # more tensors only speak against a form
        whole = max(round(written / j), 1)
        for found in _forms(read, whole, ins=i, outs=j, norm=norm, rotates=rotates):
            if best is None or found[0] < best[0]:
                best = found
    assert best is not None, "there are pairs"
    return best[1]


def _forms(
    read: int, whole: int, *, ins: int, outs: int, norm: bool, rotates: bool
) -> Iterator[tuple[float, Form]]:
    """The forms with `ins` tensors of `whole` elements in and `outs` out, each with what speaks against it."""
    spare, against = read - ins * whole, ins + outs
    most = min(_ROW, whole if norm else whole // _SMALL)
    table, row = _beside(spare, whole) if rotates else (0, 0)
    if not table:
        steps = abs(spare) / read / _STEP
        if 0 < spare <= most:
            steps = min(steps, 1)
        width = spare if norm and _NARROW <= spare <= most else _WIDTH
        yield against + steps, _made(ins, outs, elements=whole, width=width, scaled=norm)
        if most < spare < whole:
            table, row = spare, _WIDTH
    repeats = round(whole / table) if table else 0
    more = min(table / read / _STEP / 2, _TABLE)  # half of what it would be as a misfit
    if repeats > _REPEATS:  # its row of weights tells the width all the same
        yield against + more, _made(ins, outs, elements=whole, width=row, scaled=norm)
    elif repeats > 1:
        found = _made(
            ins, outs, elements=round(whole / repeats), width=row, scaled=norm, repeats=repeats
        )
        yield against + more + abs(table - found.table) / read / _STEP, found


def _beside(spare: int, whole: int) -> tuple[int, int]:
    """A table and the widest row of weights, `spare` together, that divides both it and a tensor as the table does; 0
    and 0 where there are none, or where a row of weights is all there is."""
    if not 0 < spare < whole or whole % spare == 0:
        return 0, 0
    for count in _divisors(spare):
        row = spare // count
        if count > 1 and _NARROW <= row <= _ROW and whole % (spare - row) == 0:
            return spare - row, row
    return 0, 0


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _made(
    ins: int, outs: int, *, elements: int, width: int, scaled: bool, repeats: int = 0
) -> Form:
    """Rows of up to `width` in tensors of `repeats` times `elements`, which a table has; without repeats there is none.

    The elements are a few more or less where no width near that divides them.
    """
    width = min(width, elements)
    width = next((n for n in range(width, width // 4, -1) if elements % n == 0), width)
    rows = max(round(elements / width), 1)
    return Form(
        read=ins, written=outs, rows=rows * max(repeats, 1), width=width, scaled=scaled,
        table=rows * width if repeats else 0,
    )  # fmt: skip
