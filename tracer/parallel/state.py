"""How a value lies on the ranks of a tensor-parallel group: whole on each, dealt along one axis, or as partial sums.

A value that is whole has no state (None): a rank can take its slice of it for free. Sizes are those of the traced
workload, so they are plain integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import fx

Range = tuple[fx.Node, int, int]  # output features [start, stop) of a column-parallel product


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring elements of an axis, dealt to the ranks in `units` equal parts that are never cut.

    `sources` are the output features of products that it came out of, where a constraint on it leads back to them;
    `repeats` those that it repeats (keys of one head for several query heads), which ranks may share.
    """

    size: int
    units: int
    sources: tuple[Range, ...] = ()
    repeats: tuple[Range, ...] = ()

    def cut(self, start: int, stop: int) -> Piece:
        """Elements [start, stop) of it."""
        size = stop - start
        sources = tuple(
            (node, low + start * (high - low) // self.size, low + stop * (high - low) // self.size)
            for node, low, high in self.sources
        )
        return Piece(size, _divide(self.units * size, self.size), sources, self.repeats)


@dataclass(frozen=True, slots=True)
class Split:
    """A value dealt along `axis`. The pieces repeat `outer` times along it and each of their elements is as many
    neighbours as are left: a reshape may have joined other axes to it from either side.
    """

    axis: int
    pieces: tuple[Piece, ...]
    outer: int = 1

    @property
    def size(self) -> int:
        """Elements of all pieces."""
        return sum(p.size for p in self.pieces)

    @property
    def sources(self) -> frozenset[fx.Node]:
        """The products that it came out of."""
        return frozenset(node for p in self.pieces for node, _, _ in p.sources)

    def at(self, axis: int) -> Split:
        """The same pieces on another axis."""
        return self if axis == self.axis else replace(self, axis=axis)


@dataclass(frozen=True, slots=True)
class Partial:
    """Each rank holds a summand of the value: what products over split features, experts and look-ups leave."""

    makers: tuple[fx.Node, ...]
    columns: frozenset[fx.Node] = frozenset()  # the products that made what was summed over


State = Split | Partial | None


def _divide(units: int, parts: int) -> int:
    """`units / parts` where that is whole, else as many units as it has at least."""
    return max(1, units // parts)


def reshaped(state: Split, before: Sequence[int], after: Sequence[int]) -> Split | None:
    """Where the pieces lie after a reshape; None where they are torn apart.

    A joined axis keeps them whole; an axis cut in two, as features into heads, leaves them on its first part.
    """
    ahead = math.prod(before[: state.axis]) * state.outer
    done = 1
    for axis, length in enumerate(after):
        if done == ahead and (length > 1 or state.size == 1):
            return _on(state, axis, length, 1)
        if done * length > ahead:
            outer = ahead // done
            torn = ahead % done or length % outer
            return None if torn else _on(state, axis, length, outer)
        done *= length
    return None


def _on(state: Split, axis: int, length: int, outer: int) -> Split | None:
    length //= outer
    if length >= state.size:  # joined with what is behind, or as it was
        return Split(axis, state.pieces, outer) if length % state.size == 0 else None
    if outer > 1 or state.size % length:
        return None
    grain = state.size // length
    if any(p.size % grain for p in state.pieces):
        return None
    pieces = tuple(
        Piece(p.size // grain, math.gcd(p.units, p.size // grain), p.sources, p.repeats)
        for p in state.pieces
    )
    return Split(axis, pieces)


def section(state: Split, start: int, stop: int, length: int) -> Split | None:
    """Elements [start, stop) of the split axis, which is `length` long."""
    if state.outer > 1:
        return None
    inner = length // state.size
    if start % inner or stop % inner:
        return None
    start, stop = start // inner, stop // inner
    found, at = [], 0
    for piece in state.pieces:
        low, high = max(start, at), min(stop, at + piece.size)
        if low < high:
            found.append(piece.cut(low - at, high - at))
        at += piece.size
    return Split(state.axis, tuple(found)) if found else None


def joined(first: Split, second: Split) -> Split | None:
    """Two values of one shape as one: the pieces of both, with the sources of both; None where they disagree."""
    if first.axis != second.axis or first.outer != second.outer:
        return None
    if first.size != second.size:  # the one counts features where the other counts heads
        small, large = sorted((first, second), key=lambda s: s.size)
        widened = _widened(small, large.size)
        if widened is None:
            return None
        first, second = widened, large
    pieces = []
    for one, other in _refined(first.pieces, second.pieces):
        pieces.append(_both(one, other))
    return Split(first.axis, tuple(pieces), first.outer)


def _widened(state: Split, size: int) -> Split | None:
    if size % state.size:
        return None
    grain = size // state.size
    return replace(
        state,
        pieces=tuple(Piece(p.size * grain, p.units, p.sources, p.repeats) for p in state.pieces),
    )


def _refined(first: Sequence[Piece], second: Sequence[Piece]) -> Iterator[tuple[Piece, Piece]]:
    """Pairs of equally large pieces."""
    ones, others = list(first), list(second)
    while ones and others:
        one, other = ones.pop(0), others.pop(0)
        size = min(one.size, other.size)
        if one.size > size:
            ones.insert(0, one.cut(size, one.size))
        if other.size > size:
            others.insert(0, other.cut(size, other.size))
        yield (
            one.cut(0, size) if one.size > size else one,
            (other.cut(0, size) if other.size > size else other),
        )


def _both(one: Piece, other: Piece) -> Piece:
    """Two equally large pieces as one. What only repeats others goes by the units of what it meets."""
    sources = tuple(dict.fromkeys((*one.sources, *other.sources)))
    repeats = tuple(dict.fromkeys((*one.repeats, *other.repeats)))
    units = math.gcd(one.units, other.units)
    if one.repeats and not one.sources:
        units = other.units
    elif other.repeats and not other.sources:
        units = one.units
    return Piece(one.size, units, sources, repeats)


def repeated(state: Split) -> Split:
    """A value whose elements are each repeated for several others."""
    pieces = (
        Piece(p.size, p.units, (), tuple(dict.fromkeys((*p.sources, *p.repeats))))
        for p in state.pieces
    )
    return Split(state.axis, tuple(pieces), state.outer)
