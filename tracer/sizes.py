"""Sizes of two concrete traces turned into expressions of b, s and p.

A size that is equal at both workloads is a constant. Any other is read off the first workload, whose numbers are far
apart (p beyond 900 s, b and s with primes of their own), as a multiple of one of b, s, p, b*s, b*p, p+s, b*(p+s), or as
a linear form in p and s with small coefficients, times b or not; fractions of a length are floors, and those of p + s
may be rounded up as well. Every other workload must confirm every expression: what one does not confirm is not guessed
but left to symbolic tracing.

A model with a table of N positions cannot run such lengths. `within` gives workloads below N: lengths are primes there,
and the same readings must hold at two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sympy

from oplib.errors import UnsupportedModelError
from oplib.symbols import B, P, S, evaluate

#: Every usual block of tokens divides it.
BLOCK = 128
#: b and s/128 are primes, p/128 is a prime: lengths divide by every usual block and by nothing else.
LONG = {"b": 101, "s": BLOCK * 103, "p": BLOCK * 100_003}
LONG_AGAIN = {"b": 113, "s": BLOCK * 109, "p": BLOCK * 100_019}
#: No multiples of anything: tells a rounded-up length from a rounded-down one, and a part of p + s from parts of each,
#: with one new token too.
LONG_ODD = {"b": 113, "s": BLOCK * 109 + 3, "p": BLOCK * 100_019 + 127}
SHORT = {"b": 7, "s": 24, "p": 56}
_DIVISORS = (1, 2, 4, 8, 16, 32, 64, 128)
MOST_CONSTANT = 1024

Workload = Mapping[str, int]
FEWEST_POSITIONS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Workloads:
    """Where a model is traced: the cache is read at `points` (batch, tokens), the graph is made at `long` and confirmed
    at one of the others.
    """

    points: tuple[tuple[int, int], ...]
    long: Workload
    again: Workload
    odd: Workload
    short: Workload


UNLIMITED = Workloads(
    points=((2, 390), (3, 517), (3, 1290), (5, 131_071), (2, 3)),
    long=LONG,
    again=LONG_AGAIN,
    odd=LONG_ODD,
    short=SHORT,
)


def within(positions: int) -> Workloads:
    """Workloads of at most so many tokens per sequence, cached and new ones together."""
    if positions < FEWEST_POSITIONS:
        raise UnsupportedModelError(
            f"its forward pass runs over {positions} positions at most, too few to tell sizes apart.",
            hint=f"At least {FEWEST_POSITIONS} are needed; see max_position_embeddings or its like in the config.",
        )
    long = _lengths(101, positions * 3 // 4, max(positions // 16, 8))
    other = _lengths(113, positions * 5 // 8, min(max(positions // 20, 6), long["s"]))
    far = positions - 1
    lengths = (positions // 5, positions // 3, positions // 2)
    points = (*zip((2, 3, 3), lengths, strict=True), (5, far), (2, 3))
    return Workloads(points=points, long=long, again=other, odd=other, short=other)


def _lengths(b: int, cached: int, new: int) -> Workload:
    """Primes near the wanted lengths, whose sums with a token and with each other are no usual sizes of a model."""
    s = sympy.prevprime(new)
    p = sympy.prevprime(cached)
    while p > 2 * s and any((p + n) % 16 == 0 for n in (1, s)):
        p = sympy.prevprime(p)
    return {"b": b, "s": int(s), "p": int(p)}


class Unsettled(Exception):
    """Two traces do not settle a size."""


class Different(Unsettled):
    """Two workloads run different operators, so that their sizes cannot be compared."""


class ConcreteSizes:
    """The expression of every size that occurs in a trace at one workload, confirmed at others."""

    def __init__(self, first: Workload, *others: Workload) -> None:
        self.first, self.others = first, others
        self.table: dict[int, sympy.Expr] = {}
        self._confirmed: set[tuple[int, ...]] = set()

    def add(self, size: int, *others: int) -> None:
        """Learn that a size is `size` at the first workload, and what it is at the others."""
        if (size, *others) in self._confirmed:
            return
        found = sympy.Integer(size) if {size} == {*others} else self._read(size, others)
        if self.table.setdefault(size, found) != found:
            raise Unsettled(f"{size} stands for {self.table[size]} and for {found}")
        self._confirmed.add((size, *others))

    @property
    def has_parts(self) -> bool:
        """Whether a size is a part of a length: of which one, workloads of whole blocks do not tell."""
        return any(expr.has(sympy.floor, sympy.ceiling) for expr in self.table.values())

    def expr(self, size: int) -> sympy.Expr:
        """The expression of a size that occurs in the trace."""
        return self.table[size] if size in self.table else sympy.Integer(size)

    def _read(self, size: int, others: tuple[int, ...]) -> sympy.Expr:
        pairs = [*zip(self.others, others, strict=True), (self.first, size)]
        for candidate in self._candidates(size):
            if all(evaluate(candidate, **at) == value for at, value in pairs):
                return candidate
        said = " and ".join(f"{value} at {dict(at)}" for at, value in reversed(pairs))
        raise Unsettled(f"{said} follow no known form")

    def _candidates(self, size: int) -> Iterator[sympy.Expr]:
        b, s, p = (self.first[name] for name in "bsp")
        tokens = (S, s) if s > 1 else (sympy.Integer(1), 1)
        forms = [(B, b), (P, p), tokens, (P + tokens[0], p + s), (P * tokens[0], p * s)]
        for form, value in forms:
            for times, factor in ((sympy.Integer(1), 1), (B, b)):
                if size % (value * factor) == 0:
                    yield times * form * (size // (value * factor))
        for times, factor in ((sympy.Integer(1), 1), (B, b)):
            if size % factor == 0:
                yield from self._linear(size // factor, times, s, p)
                for rounded in _rounded(size // factor, P + tokens[0], p + s):
                    yield times * rounded

    def _linear(self, size: int, times: sympy.Expr, s: int, p: int) -> Iterator[sympy.Expr]:
        """p and s in parts of up to 1/128, and a small constant of either sign."""
        for parts in _DIVISORS:
            many = size * parts // p
            rest = size - many * p // parts
            if s == 1:
                yield times * (_portion(P, many, parts) + rest)
                continue
            for pieces in _DIVISORS:
                for few in (rest * pieces // s, rest * pieces // s + 1):
                    constant = rest - few * s // pieces
                    if abs(constant) <= MOST_CONSTANT:
                        yield times * (
                            _portion(P, many, parts) + _portion(S, few, pieces) + constant
                        )


def _rounded(size: int, length: sympy.Expr, tokens: int) -> Iterator[sympy.Expr]:
    """Multiples of a long length in parts of up to 1/128, rounded down or up."""
    for parts in _DIVISORS[1:]:
        for rounded, value in (
            (sympy.floor, tokens // parts),
            (sympy.ceiling, -(-tokens // parts)),
        ):
            if value > MOST_CONSTANT and size % value == 0:
                yield (size // value) * rounded(length / parts)


def _portion(length: sympy.Symbol, numerator: int, denominator: int) -> sympy.Expr:
    """numerator/denominator of a length: whole multiples, and floors of what is left."""
    whole, left = divmod(numerator, denominator)
    return whole * length + left * sympy.floor(length / denominator)
