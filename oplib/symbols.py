"""The three workload symbols, and expressions in them as text.

`b` batch, `s` new tokens per sequence, `p` tokens already cached per sequence.

Text from a file is never evaluated as Python: `parse_expr` walks the syntax tree and accepts numbers, the three
names, arithmetic, and a short list of functions.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy

from oplib.arithmetic import Amount
from oplib.errors import OpListFormatError
from oplib.spelled import MAX_TEXT, call, plain, power

B, S, P = sympy.symbols("b s p", integer=True, nonnegative=True)

_NAMES: dict[str, sympy.Symbol] = {"b": B, "s": S, "p": P}
_MAX_EXPONENT = 1024
_ALLOWED = (
    "Allowed: numbers, b, s, p, + - * / **, comparisons, "
    "Min, Max, floor, ceiling, Mod, Piecewise, Eq, Ne."
)

Call = Callable[..., Any]  # sympy constructors have no common static signature


def _lazy(cls: Any) -> Call:  # Any: sympy's Min and Max share no typed constructor
    """Min and Max as `arithmetic` builds them, so that text and formula give equal expressions."""
    return lambda *args: cls(*args, evaluate=all(arg.is_number for arg in args))


_FUNCTIONS: dict[str, tuple[Call, int, int]] = {  # constructor, fewest and most arguments
    "Min": (_lazy(sympy.Min), 1, 64),
    "Max": (_lazy(sympy.Max), 1, 64),
    "floor": (sympy.floor, 1, 1),
    "ceiling": (sympy.ceiling, 1, 1),
    "Mod": (sympy.Mod, 2, 2),
    "Piecewise": (sympy.Piecewise, 1, 64),
    "Eq": (sympy.Eq, 2, 2),
    "Ne": (sympy.Ne, 2, 2),
}
_COMPARISONS: dict[type[ast.cmpop], Call] = {
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
    ast.Eq: sympy.Eq,
    ast.NotEq: sympy.Ne,
}


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    if base.is_number and exponent.is_number and not abs(exponent) <= _MAX_EXPONENT:
        raise ValueError(f"the exponent {exponent} is above {_MAX_EXPONENT}")
    return base**exponent


_OPERATORS: dict[type[ast.operator], Call] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.Pow: _power,
    ast.BitAnd: sympy.And,
    ast.BitOr: sympy.Or,
}


def _build_call(node: ast.Call) -> Any:  # Any: Expr or Boolean
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in _FUNCTIONS or node.keywords:
        raise ValueError(f"the function {ast.unparse(node.func)!r} is not allowed")
    function, fewest, most = _FUNCTIONS[name]
    if not fewest <= len(node.args) <= most:
        raise ValueError(f"{name} takes {fewest} to {most} arguments, not {len(node.args)}")
    if name != "Piecewise":
        return function(*(_build(arg) for arg in node.args))
    pairs = []
    for arg in node.args:
        if not isinstance(arg, ast.Tuple) or len(arg.elts) != 2:
            raise ValueError("Piecewise takes (value, condition) pairs")
        pairs.append((_build(arg.elts[0]), _build(arg.elts[1])))
    return function(*pairs)


def _build(node: ast.expr) -> Any:  # Any: Expr, or Boolean inside a Piecewise
    match node:
        case ast.Constant(value=bool() as value):
            return sympy.true if value else sympy.false
        case ast.Constant(value=int() | float() as value):
            return sympy.sympify(value)
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_build(operand)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return _OPERATORS[type(operator)](_build(left), _build(right))
        case ast.Compare(left=left, ops=[comparison], comparators=[right]) if (
            type(comparison) in _COMPARISONS
        ):
            return _COMPARISONS[type(comparison)](_build(left), _build(right))
        case ast.Call():
            return _build_call(node)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def parse_expr(value: str | int | float) -> sympy.Expr:
    """The expression that `value` spells; anything outside the small language is an OpListFormatError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OpListFormatError(f"An expression is a text or a number, not {value!r}.", _ALLOWED)
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise OpListFormatError(f"An expression has {len(value)} characters, above {MAX_TEXT}.")
    try:
        if isinstance(value, str):
            expr = _build(ast.parse(value.strip(), mode="eval").body)
        else:
            expr = sympy.sympify(value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        text = value[:80] if isinstance(value, str) else value
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise OpListFormatError(
            f"Cannot read the expression {text!r}: {reason}.", _ALLOWED
        ) from error
    if not isinstance(expr, sympy.Expr) or expr.has(sympy.zoo, sympy.nan, sympy.oo, sympy.I):
        raise OpListFormatError(f"{str(value)[:80]!r} is not a finite real expression.", _ALLOWED)
    return expr


def format_expr(expr: sympy.Expr) -> str | int:
    """What `parse_expr` reads back: an int when the expression is an integer, else its text."""
    return int(expr) if expr.is_Integer else str(expr)


def evaluate(expr: sympy.Expr, *, b: Amount = 0, s: Amount = 0, p: Amount = 0) -> Amount:
    """The value of `expr` at a workload: an exact int where the result is whole, else a float.

    With numpy arrays the result is a float64 array, exact up to 2**53.
    """
    numbers = (b, s, p)
    if all(isinstance(number, int | float) for number in numbers):
        return plain(_value(expr, {B: b, S: s, P: p}, exact=True))
    import numpy

    arrays = [numpy.asarray(number, dtype=numpy.float64) for number in numbers]
    return _value(expr, dict(zip((B, S, P), arrays, strict=True)), exact=False)


def _value(
    expr: Any, at: dict[sympy.Symbol, Amount], *, exact: bool
) -> Amount:  # Any: Expr or Boolean
    """Walk the tree with plain arithmetic: compiling with lambdify costs more than one use repays."""
    if expr in at:
        return at[expr]
    if expr.is_Integer:
        return int(expr)
    if expr.is_Rational:
        return Fraction(int(expr.p), int(expr.q)) if exact else int(expr.p) / int(expr.q)
    if expr.is_Float:
        return float(expr)
    if isinstance(expr, sympy.Piecewise):
        return _piecewise(expr, at, exact=exact)
    args = [_value(arg, at, exact=exact) for arg in expr.args]
    if isinstance(expr, sympy.Add):
        return sum(args)
    if isinstance(expr, sympy.Mul):
        return math.prod(args)
    if isinstance(expr, sympy.Pow):
        return power(args[0], args[1], exact=exact)
    return _function(expr, args, exact=exact)


def _function(expr: Any, args: list[Amount], *, exact: bool) -> Amount:  # Any: Expr or Boolean
    name = type(expr).__name__
    if name not in ("Min", "Max", "floor", "ceiling", "Mod"):
        raise OpListFormatError(f"Cannot evaluate {name} in {expr}.", _ALLOWED)
    return call(name, args, exact=exact)


def _piecewise(expr: sympy.Piecewise, at: dict[sympy.Symbol, Amount], *, exact: bool) -> Amount:
    if exact:
        for value, condition in expr.args:
            if condition.subs(at) == sympy.true:
                return _value(value, at, exact=exact)
        raise OpListFormatError(f"No case of {expr} holds at {at}.")
    import numpy

    axes = numpy.broadcast_arrays(*at.values())
    flat = [
        _value(expr, {name: int(x) for name, x in zip(at, point, strict=True)}, exact=True)
        for point in zip(*(axis.ravel() for axis in axes), strict=True)
    ]
    return numpy.asarray([float(x) for x in flat]).reshape(axes[0].shape)
