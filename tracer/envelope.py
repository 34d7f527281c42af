"""The serving envelope: the workloads that a server meets, and the points of an op that they ask for.

What it holds is stated in docs/conventions.md, section "Serving envelope".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy
import sympy
from numpy.typing import NDArray

from oplib.op import Op
from oplib.symbols import evaluate, parse_expr

MOST_TOKENS = 16384  # new tokens of one context pass; engines cut longer prompts into passes
MOST_SEQUENCES = 256  # sequences of one pass
SHORTEST = 128  # tokens of the shortest prompt, and of the shortest cache that generation reads
POSITIONS = 32768  # of a model whose config states none

Ints = NDArray[numpy.int64]
Json = dict[str, Any]  # Any: an object that becomes JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The limits: `positions` of the model, `cache` bytes of a batch as an expression in b and p, and `capacity`, the
    bytes of one GPU's memory that they have to fit in.
    """

    positions: int
    cache: sympy.Expr
    capacity: float

    @classmethod
    def of(cls, report: Mapping[str, Any], capacity: float) -> Envelope:
        """That of a traced model."""
        return cls(
            positions=report.get("max_positions") or POSITIONS,
            cache=parse_expr(report["kv_cache"]["expression"]),
            capacity=capacity,
        )

    def workloads(self, phase: str) -> dict[str, Ints]:
        """b, s and p [workloads] of a phase."""
        batches = _powers(1, MOST_SEQUENCES)
        if phase == "generation":
            lengths = [p - 1 for p in _up_to(SHORTEST, self.positions)]
            rows = list(product(batches, [1], lengths))
        else:
            news = _up_to(SHORTEST, min(self.positions, MOST_TOKENS))
            rows = [
                (b, s, p)
                for b, s in product(batches, news)
                if b * s <= MOST_TOKENS
                for p in [0, *_up_to(1024, self.positions - s, step=4)]
                if p + s <= self.positions
            ]
        b, s, p = numpy.array(rows, dtype=numpy.int64).T
        held = evaluate(self.cache, b=b, s=s * 0, p=p + s)
        fits = numpy.broadcast_to(held, b.shape) <= self.capacity
        fits[0] = True  # the smallest
        return {"b": b[fits], "s": s[fits], "p": p[fits]}

    def to_json(self) -> Json:
        """The limits as a report states them."""
        return {
            "positions": self.positions,
            "tokens": MOST_TOKENS,
            "sequences": MOST_SEQUENCES,
            "shortest": SHORTEST,
            "cache_bytes": int(self.capacity),
        }


def points(op: Op, workloads: Mapping[str, Ints]) -> dict[str, Ints]:
    """The dims [points] at which an op has to be measured for these workloads.

    Where its dims vary one by one, the values of the kind's own grid between the least and the largest, and those two,
    in all combinations that some workload reaches or exceeds. Where they vary together, one workload per octave.
    """
    names = list(op.dims)
    sizes = op.dims_at(**workloads)
    columns = numpy.broadcast_arrays(*(sizes[name] for name in names), workloads["b"])[:-1]
    reached = numpy.unique(numpy.stack(columns, axis=-1).astype(numpy.int64), axis=0)
    varying = [i for i in range(len(names)) if len(numpy.unique(reached[:, i])) > 1]
    if len(varying) > 1 and not _independent([op.dims[names[i]] for i in varying]):
        chosen = _one_per_octave(reached)
    else:
        grid = op.kind.grid()
        axes = [_axis(reached[:, i], grid.get(name, ())) for i, name in enumerate(names)]
        every = numpy.array(list(product(*axes)), dtype=numpy.int64)
        below = (every[:, None, :] <= reached[None, :, :]).all(axis=2)
        chosen = every[numpy.any(below, axis=1)]
    return {name: chosen[:, i] for i, name in enumerate(names)}


def _independent(dims: Iterable[sympy.Expr]) -> bool:
    """Whether each dim is a symbol of its own."""
    found = list(dims)
    return all(dim.is_Symbol for dim in found) and len(set(found)) == len(found)


def _axis(values: Ints, grid: Iterable[int]) -> list[int]:
    low, high = int(values.min()), int(values.max())
    return sorted({low, high, *(size for size in grid if low < size < high)})


def _one_per_octave(reached: Ints) -> Ints:
    """The first row of each octave in every dim, and the rows with the least and the largest of each."""
    octave = numpy.log2(numpy.maximum(reached, 1)).round().astype(numpy.int64)
    _, first = numpy.unique(octave, axis=0, return_index=True)
    ends = [*reached.argmin(axis=0), *reached.argmax(axis=0)]
    return reached[numpy.unique([*first, *ends])]


def _powers(low: int, high: int, step: int = 2) -> list[int]:
    found = []
    while low <= high:
        found.append(low)
        low *= step
    return found


def _up_to(low: int, high: int, *, step: int = 2) -> list[int]:
    """`low` times powers of `step` up to `high`, and `high`; nothing where that is below 1."""
    return sorted({*_powers(low, high, step), *([high] if high >= 1 else [])})
