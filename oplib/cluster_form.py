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
from typing import NamedTuple

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.params import Params, text

REDUCTIONS = frozenset({"mean", "sum", "softmax", "amax", "norm", "rms_norm", "layer_norm", "var"})
# That put the halves of rows together, where a table is beside the weights.
_ROTATIONS = frozenset({"cat", "stack"})
_WIDTH = 4096  # of a row where the bytes do not tell
# The widest row that a norm works on, and the narrowest that bytes tell of.
_ROW, _NARROW = 32768, 16
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


class Sketch(NamedTuple):
    """Forms of many clusters, before rows are made whole: `read` tensors of `elements` in, `written` out, rows of
    `width` at most; `repeats` of a table, 0 where there is none."""

    read: Amount
    written: Amount
    elements: Amount
    width: Amount
    repeats: Amount


def form(params: Params, dims: Mapping[str, int]) -> Form:
    """The fewest tensors whose bytes come close to those of the op."""
    return _whole(Sketch(*(int(column) for column in sketch(params, dims))), reduces(params))


def reduces(params: Params) -> bool:
    """Whether the cluster reduces rows, as norms and softmax do."""
    return not REDUCTIONS.isdisjoint(text(params, "functions").split("+"))


def sketch(params: Params, dims: Mapping[str, Amount]) -> Sketch:
    """The forms for numbers or arrays of bytes, in their shape."""
    import numpy

    size = storage_bytes(text(params, "dtype"))
    read, written = numpy.broadcast_arrays(
        *(numpy.maximum(numpy.rint(numpy.divide(dims[n], size)), 1.0) for n in ("read", "written"))
    )
    norm = reduces(params)
    rotates = norm and not _ROTATIONS.isdisjoint(text(params, "functions").split("+"))
    best = numpy.full(read.size, numpy.inf)
    found = numpy.zeros((read.size, len(Sketch._fields)), dtype=numpy.int64)
    for i, j in _PAIRS:
        left = numpy.flatnonzero(best > i + j)  # more tensors only speak against a form
        if not len(left):
            break
        whole = numpy.maximum(numpy.rint(written.ravel()[left] / j), 1.0)
        for against, width, repeats in _offers(
            read.ravel()[left], whole, ins=i, norm=norm, rotates=rotates
        ):
            better = i + j + against < best[left]
            at = left[better]
            best[at] = i + j + against[better]
            found[at, :2] = i, j
            for column, values in enumerate((whole, width, repeats), 2):
                found[at, column] = values[better]
    return Sketch(*(column.reshape(read.shape) for column in found.T))


def _offers(
    read: Amount, whole: Amount, *, ins: int, norm: bool, rotates: bool
) -> Iterator[tuple[Amount, Amount, Amount]]:
    """Ways to spend what is read beyond `ins` tensors of `whole` elements: what speaks against each, infinite where it
    is none, the width of rows, and the rows for one of a table."""
    import numpy

    spare, steps = read - ins * whole, 1 / read / _STEP
    most = numpy.minimum(_ROW, whole if norm else whole // _SMALL)
    row = _beside(spare, whole) if rotates else numpy.zeros_like(spare)
    small = (spare > 0) & (spare <= most)
    away = numpy.abs(spare) * steps
    width = numpy.where(norm & small & (spare >= _NARROW), spare, _WIDTH)
    against = numpy.where(small, numpy.minimum(away, 1), away)
    yield numpy.where(row > 0, numpy.inf, against), width, numpy.zeros_like(spare)
    table = numpy.where(
        row > 0, spare - row, numpy.where((most < spare) & (spare < whole), spare, 0)
    )
    if not table.any():
        return
    width = numpy.where(row > 0, row, _WIDTH)
    repeats = numpy.rint(whole / numpy.maximum(table, 1))
    more = numpy.minimum(table * steps / 2, _TABLE)  # half of what it would be as a misfit
    away = numpy.abs(table - whole / numpy.maximum(repeats, 1)) * steps
    several = (table > 0) & (repeats > 1)
    held = repeats > _REPEATS  # its row of weights tells the width all the same
    against = numpy.where(several, more + numpy.where(held, 0, away), numpy.inf)
    yield against, width, numpy.where(held, 0, repeats)


def _beside(spare: Amount, whole: Amount) -> Amount:
    """The widest row of weights that, taken from what is spare, leaves a table that it divides and that divides a
    tensor; 0 where there is none, or where a row of weights is all there is."""
    import numpy

    row = numpy.zeros_like(spare)
    asked = numpy.flatnonzero((spare > 0) & (spare < whole) & (whole % numpy.maximum(spare, 1) > 0))
    common = numpy.gcd(spare[asked].astype(numpy.int64), whole[asked].astype(numpy.int64))
    for divisor in set(common.tolist()):
        at = asked[common == divisor]
        for width in _divisors(divisor):
            if _NARROW <= width <= _ROW:
                table = spare[at] - width
                fits = (table > 0) & (whole[at] % numpy.maximum(table, 1) == 0)
                row[at[fits]] = width  # wider ones come later
    return row


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _whole(found: Sketch, scaled: bool) -> Form:
    """The form with rows of up to the width of a sketch, of the tensors or of the table where there is one.

    The elements are a few more or less where no width near that divides them.
    """
    elements = max(round(found.elements / max(found.repeats, 1)), 1)
    width = min(found.width, elements)
    width = next((n for n in range(width, width // 4, -1) if elements % n == 0), width)
    rows = max(round(elements / width), 1)
    return Form(
        read=found.read, written=found.written, rows=rows * max(found.repeats, 1), width=width,
        scaled=scaled, table=rows * width if found.repeats else 0,
    )  # fmt: skip
