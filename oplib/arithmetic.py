"""Minimum, division and powers that work alike on numbers, numpy arrays and sympy expressions.

A formula of an op kind is written once with these and the ordinary operators. Called with symbols it gives the
expression that goes into the op list; called with integers it gives the exact number, without sympy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

Amount: TypeAlias = Any  # int, float, sympy.Expr or numpy array: they share no static type


def _is_symbolic(*values: Amount) -> bool:
    """Whether one of them is an expression. Where nobody has loaded sympy, none can be."""
    sympy = sys.modules.get("sympy")
    return sympy is not None and any(isinstance(value, sympy.Basic) for value in values)


def _is_array(*values: Amount) -> bool:
    return not all(isinstance(value, int | float) for value in values)


def _extremum(
    first: Amount, second: Amount, *, symbolic: str, plain: Callable[..., Amount]
) -> Amount:
    """sympy's own evaluation of Min and Max searches for relations between the arguments, which costs
    milliseconds and finds nothing here, so only two numbers are compared."""
    if _is_symbolic(first, second):
        import sympy

        function = {"Min": sympy.Min, "Max": sympy.Max}[symbolic]
        first, second = sympy.sympify(first), sympy.sympify(second)
        if first == second:
            return first
        if first.is_number and second.is_number:
            return function(first, second)
        return function(first, second, evaluate=False)
    if _is_array(first, second):
        import numpy

        return (numpy.minimum if plain is min else numpy.maximum)(first, second)
    return plain(first, second)


def minimum(first: Amount, second: Amount) -> Amount:
    """The smaller of two amounts."""
    return _extremum(first, second, symbolic="Min", plain=min)


def maximum(first: Amount, second: Amount) -> Amount:
    """The larger of two amounts."""
    return _extremum(first, second, symbolic="Max", plain=max)


def floor_div(value: Amount, divisor: int) -> Amount:
    """How many whole `divisor`s fit into `value`."""
    if _is_symbolic(value):
        import sympy

        return sympy.floor(value / divisor)
    return value // divisor


def ceil_div(value: Amount, divisor: Amount) -> Amount:
    """How many `divisor`s cover `value`."""
    if _is_symbolic(value, divisor):
        import sympy

        return sympy.ceiling(sympy.sympify(value) / divisor)
    return -(-value // divisor)


def modulo(value: Amount, divisor: int) -> Amount:
    """What remains of `value` after whole `divisor`s."""
    if _is_symbolic(value):
        import sympy

        return sympy.Mod(value, divisor)
    return value % divisor


def exact_div(value: Amount, divisor: int) -> Amount:
    """`value / divisor` where the formula guarantees that nothing remains; integers stay integers."""
    if isinstance(value, int):
        return value // divisor
    return value / divisor


def power_of_ratio(numerator: int, denominator: int, exponent: Amount) -> Amount:
    """`(numerator / denominator) ** exponent`, exact as an expression, a float as a number."""
    if _is_symbolic(exponent):
        import sympy

        return sympy.Rational(numerator, denominator) ** exponent
    return (numerator / denominator) ** exponent


def bytes_of_bits(bits: Amount) -> Amount:
    """Bytes of densely packed `bits`; integers stay integers where they are whole bytes."""
    if isinstance(bits, int) and bits % 8 == 0:
        return bits // 8
    return bits / 8
