"""The context passes of a workload: one, or several of at most so many tokens, as engines cut long prompts and batches.

Sequences follow each other, as requests are served in the order in which they came. Where a whole prompt fits into a
pass, as many sequences as fit share it; a longer prompt is cut, each piece over the cache that the earlier ones filled,
and its last piece shares its pass with no other sequence. So no pass has more tokens than allowed and every token has
its turn once.

Letters: n workloads, k passes that differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from oplib.errors import InvalidInputError
from perfdb.arrays import Floats, Ints
from perfdb.performance import PerformanceArray

MOST = 4_000_000  # passes that are priced at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Passes of workloads in their order: `b` [k] sequences with `s` [k] new tokens each over `p` [k] cached ones, run
    `times` [k] times by workload `owner` [k]; `first` [n] is the place of each workload's first."""

    b: Ints
    s: Ints
    p: Ints
    times: Ints
    owner: Ints
    first: Ints

    @classmethod
    def of(cls, b: Ints, s: Ints, p: Ints, *, chunk: int = 0) -> Passes:
        """Those of `b` [n] sequences with `s` [n] new tokens each over `p` [n] cached ones, at most `chunk` tokens in
        each; one pass each where `chunk` is 0."""
        each = numpy.arange(len(b))
        if not chunk:
            return cls(b=b, s=s, p=p, times=numpy.ones_like(b), owner=each, first=each)
        _check(s, chunk)
        together = numpy.minimum(numpy.maximum(chunk // s, 1), b)  # sequences of one pass
        new = numpy.minimum(s, chunk)
        pieces = s // new  # whole ones of a prompt
        owner = numpy.repeat(each, pieces)
        number = numpy.arange(len(owner)) - numpy.repeat(numpy.cumsum(pieces) - pieces, pieces)
        whole = (
            together[owner],
            new[owner],
            p[owner] + number * new[owner],
            (b // together)[owner],
        )
        ends = numpy.flatnonzero(
            s % new
        )  # prompts whose last piece is shorter; each sequence is on its own
        rest = numpy.flatnonzero(b % together)  # and batches whose last pass has fewer sequences
        parts = [
            (*whole, owner),
            (
                together[ends],
                s[ends] % new[ends],
                p[ends] + s[ends] // new[ends] * new[ends],
                b[ends],
                ends,
            ),
            (b[rest] % together[rest], s[rest], p[rest], numpy.ones_like(rest), rest),
        ]
        rows = [numpy.concatenate(column) for column in zip(*parts, strict=True)]
        order = numpy.argsort(rows[-1], kind="stable")
        b, s, p, times, owner = (row[order] for row in rows)
        return cls(b=b, s=s, p=p, times=times, owner=owner, first=numpy.searchsorted(owner, each))

    @property
    def count(self) -> Ints:
        """Passes of each workload [n]."""
        found: Ints = numpy.add.reduceat(self.times, self.first)
        return found

    def sum(self, values: Floats) -> Floats:
        """Sums [n] of `values` [k] of single passes."""
        found: Floats = numpy.add.reduceat(values * self.times, self.first)
        return found

    def total(self, each: PerformanceArray) -> PerformanceArray:
        """Results [n] of all passes from those of single ones [k]: passes of one op err alike, the worst origin
        stays."""
        if len(self.first) == self.times.sum():
            return each
        return each.alike(self.sum, lambda ranks: numpy.maximum.reduceat(ranks, self.first))


def _check(s: Ints, chunk: int) -> None:
    if chunk < 0:
        raise InvalidInputError(f"chunk is {chunk}.", "It takes tokens per pass, or 0 for no cut.")
    pieces = float((-(-s // chunk)).sum(dtype=numpy.float64))
    if pieces > MOST:
        raise InvalidInputError(
            f"Passes of {chunk} tokens are {pieces:.3g} in all, up to {int(-(-s.max() // chunk))} for one prompt.",
            f"At most {MOST} are priced at once: allow more tokens in a pass, or shorten the prompts.",
        )
