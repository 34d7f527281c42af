"""Workload: static batches to price, one or an array of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy

from models.passes import Passes
from oplib.arithmetic import Amount
from oplib.errors import InvalidInputError
from perfdb.arrays import Ints

LARGEST = 2**31  # of any length or batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`batch` sequences on each data-parallel replica, each with `isl` new tokens over `prefix` cached ones, of which
    the answer has `osl` tokens. Whole numbers, or arrays of them that broadcast. A context pass has at most `chunk`
    tokens of a replica (`models.passes`), all of them where it is 0."""

    batch: Amount
    isl: Amount
    osl: Amount
    prefix: Amount = 0
    chunk: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("isl", 1), ("osl", 1), ("prefix", 0)):
            sizes = numpy.asarray(getattr(self, name))  # walks the record itself
            whole = numpy.issubdtype(sizes.dtype, numpy.integer)
            if not whole or not sizes.size or sizes.min() < least or sizes.max() > LARGEST:
                wrong = sizes[(sizes < least) | (sizes > LARGEST)] if whole else sizes
                raise InvalidInputError(
                    f"{name} is {', '.join(map(str, wrong.ravel()[:5])) or 'empty'}.",
                    f"It takes whole numbers from {least} to 2**31.",
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array of workloads; () for one."""
        sizes = (self.batch, self.isl, self.osl, self.prefix)
        return numpy.broadcast_shapes(*(numpy.shape(size) for size in sizes))

    @property
    def passes(self) -> Passes:
        """The context passes of the flattened array of workloads."""
        sizes = (self.batch, self.isl, self.prefix)
        b, s, p = (numpy.broadcast_to(size, self.shape).ravel() for size in sizes)
        return Passes.of(b, s, p, chunk=self.chunk)

    @property
    def cached(self) -> Amount:
        """Tokens per sequence that the first generation step finds in the cache."""
        return self.prefix + self.isl

    @property
    def steps(self) -> Amount:
        """Generation steps: the context pass gives the first token of the answer."""
        return self.osl - 1

    def at(self, place: tuple[int, ...]) -> dict[str, int]:
        """The `workload` object of a report: one of an array of workloads."""
        sizes = {"batch": self.batch, "isl": self.isl, "osl": self.osl, "prefix": self.prefix}
        return {
            name: int(numpy.broadcast_to(size, self.shape)[place]) for name, size in sizes.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """The distinct ones of many combinations of sizes: `sizes` [n] by name, and each combination's place among them."""

    sizes: Mapping[str, Ints]
    place: Ints

    @classmethod
    def of(cls, **sizes: Amount) -> Points:
        """Those of broadcasting `sizes`."""
        arrays = numpy.broadcast_arrays(
            *(numpy.asarray(size, dtype=numpy.int64) for size in sizes.values())
        )
        shape, code = arrays[0].shape, numpy.zeros(arrays[0].size, dtype=numpy.int64)
        for array in arrays:
            if (array == array.flat[0]).all():
                continue
            distinct, inverse = numpy.unique(array.ravel(), return_inverse=True)
            code = code * len(distinct) + inverse
            if len(distinct) * (int(code.max()) + 1) > 2**62:
                code = numpy.unique(code, return_inverse=True)[1]
        _, first, place = numpy.unique(code, return_index=True, return_inverse=True)
        return cls(
            sizes={name: array.ravel()[first] for name, array in zip(sizes, arrays, strict=True)},
            place=place.reshape(shape),
        )


def grid(
    *,
    batch: Sequence[int],
    isl: Sequence[int],
    osl: Sequence[int],
    prefix: Sequence[int],
    chunk: int = 0,
) -> Workload:
    """Every combination of the sizes, as an array [batch, isl, osl, prefix] of workloads."""
    axes = numpy.ix_(
        *(numpy.asarray(sizes, dtype=numpy.int64) for sizes in (batch, isl, osl, prefix))
    )
    return Workload(batch=axes[0], isl=axes[1], osl=axes[2], prefix=axes[3], chunk=chunk)
