"""Expressions as their text: read and evaluated from the syntax tree alone.

sympy takes longer to load than a saved op list takes to price, so dims that come from a file stay text until somebody
asks for an expression. `oplib.symbols` defines the language; what is not plainly in it is left to its judgement.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from oplib.arithmetic import Amount
from oplib.errors import OpListFormatError

MAX_TEXT = 20_000  # characters of an expression

At: TypeAlias = Mapping[str, Amount]
Node: TypeAlias = Callable[[At, bool], Amount]  # the value at a workload, exact or in floats

_SAMPLE = {"b": 2.0, "s": 3.0, "p": 5.0}
_DOUBTS = (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {  # Any: numbers or arrays
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {  # Any: as above
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_ARGUMENTS = {"Min": (1, 64), "Max": (1, 64), "floor": (1, 1), "ceiling": (1, 1), "Mod": (2, 2)}


Text: TypeAlias = str | int | float  # an expression as files have it


class Term:
    """One expression: its text, and how its value follows from b, s and p. Sums, products and quotients with numbers
    and other terms are terms; with a sympy expression they are sympy's."""

    __slots__ = ("node", "text")

    def __init__(self, text: Text, node: Node) -> None:
        self.text, self.node = text, node

    @classmethod
    def read(cls, text: Text) -> Amount:
        """The expression of a text: a term, or what sympy makes of it where it is not plain; numbers stay numbers."""
        if isinstance(text, int | float) and not isinstance(text, bool) and math.isfinite(text):
            return text
        try:
            return cls(text, _checked(text))
        except _DOUBTS:
            from oplib.symbols import parse_expr

            return parse_expr(text)

    @property
    def _sympy(self) -> Any:  # Any: a sympy expression
        from oplib.symbols import parse_expr

        return parse_expr(self.text)

    def _sympy_(self) -> Any:  # Any: as above; sympy asks for it under this name
        return self._sympy

    def _join(self, other: Amount, sign: str, *, turned: bool = False) -> Amount:
        mine: tuple[str, Node] = (str(self.text), self.node)
        if isinstance(other, Term):
            theirs = (str(other.text), other.node)
        elif isinstance(other, int | float | Fraction):
            theirs = (str(other), _constant(other))
        else:
            function = _SIGNS[sign]
            return function(other, self._sympy) if turned else function(self._sympy, other)
        left, right = (theirs, mine) if turned else (mine, theirs)
        node = (
            _divide(left[1], right[1]) if sign == "/" else _apply(_SIGNS[sign], left[1], right[1])
        )
        return Term(f"({left[0]}){sign}({right[0]})", node)

    def __add__(self, other: Amount) -> Amount:
        return self._join(other, "+")

    def __radd__(self, other: Amount) -> Amount:
        return self._join(other, "+", turned=True)

    def __sub__(self, other: Amount) -> Amount:
        return self._join(other, "-")

    def __rsub__(self, other: Amount) -> Amount:
        return self._join(other, "-", turned=True)

    def __mul__(self, other: Amount) -> Amount:
        return self._join(other, "*")

    def __rmul__(self, other: Amount) -> Amount:
        return self._join(other, "*", turned=True)

    def __truediv__(self, other: Amount) -> Amount:
        return self._join(other, "/")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Term) and other.text == self.text:
            return True
        same: bool = self._sympy == (other._sympy if isinstance(other, Term) else other)
        return same

    def __hash__(self) -> int:
        return hash(self._sympy)

    def __repr__(self) -> str:
        return f"Term({self.text!r})"


class Spelled(Mapping[Any, Any]):  # Any: names or numbers to sympy expressions
    """Terms by name: `at` evaluates them, `terms` hands them out, indexing gives the sympy expression."""

    __slots__ = ("_expressions", "_terms")

    def __init__(self, terms: Mapping[Any, Amount]) -> None:
        self._terms = dict(terms)
        self._expressions: dict[Any, Any] = {}

    @classmethod
    def read(cls, texts: Mapping[Any, Text]) -> Mapping[Any, Any]:
        """The expressions that `texts` spell; OpListFormatError where one is none."""
        return of({name: Term.read(text) for name, text in texts.items()})

    @property
    def terms(self) -> Mapping[Any, Amount]:
        """The terms, numbers as such."""
        return self._terms

    def at(self, *, b: Amount, s: Amount, p: Amount) -> dict[Any, Amount]:
        """The values at a workload, as `oplib.symbols.evaluate` gives them."""
        at, exact = _workload(b, s, p)
        return {
            name: plain(term.node(at, exact) if isinstance(term, Term) else term)
            for name, term in self._terms.items()
        }

    @property
    def symbols(self) -> frozenset[str]:
        """Those of b, s and p that occur."""
        texts = (str(term.text) for term in self._terms.values() if isinstance(term, Term))
        return frozenset(re.findall(r"\b[bsp]\b", " ".join(texts)))

    def __getitem__(self, name: Any) -> Any:
        if name not in self._expressions:
            from sympy import sympify

            self._expressions[name] = sympify(self._terms[name])
        return self._expressions[name]

    def __contains__(self, name: object) -> bool:
        return name in self._terms

    def __iter__(self) -> Iterator[Any]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    def __repr__(self) -> str:
        return f"Spelled({self._terms!r})"


def of(terms: Mapping[Any, Amount]) -> Mapping[Any, Any]:
    """Expressions by name: `Spelled` where all are terms or numbers, else sympy's."""
    if isinstance(terms, Spelled):
        return terms
    if all(type(term) in (Term, int, float, Fraction) for term in terms.values()):
        return Spelled(terms)
    from sympy import sympify

    return {name: sympify(term) for name, term in terms.items()}


def light(expressions: Mapping[Any, Any]) -> Mapping[Any, Amount]:
    """The expressions to compute with: terms where they are known, which need no sympy."""
    return expressions.terms if isinstance(expressions, Spelled) else expressions


def value_of(expression: Amount, *, b: Amount, s: Amount, p: Amount) -> Amount:
    """The value of a term, a number or a sympy expression at a workload."""
    if isinstance(expression, Term):
        return plain(expression.node(*_workload(b, s, p)))
    if isinstance(expression, int | float | Fraction):
        return plain(expression)
    from oplib.symbols import evaluate

    return evaluate(expression, b=b, s=s, p=p)


def _workload(b: Amount, s: Amount, p: Amount) -> tuple[dict[str, Amount], bool]:
    """The values of the symbols, and whether they are numbers, which are computed with exactly."""
    at = {"b": b, "s": s, "p": p}
    if all(isinstance(number, int | float) for number in at.values()):
        return at, True
    import numpy

    return {name: numpy.asarray(number, dtype=float) for name, number in at.items()}, False


def plain(value: Amount) -> Amount:
    """A fraction as an int where it is whole, else as a float; anything else as it is."""
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else float(value)
    return value


def power(base: Amount, exponent: Amount, *, exact: bool) -> Amount:
    """`base ** exponent`; exact where that has a bearable number of digits."""
    if not exact:
        return base ** (float(exponent) if isinstance(exponent, int) else exponent)
    if isinstance(exponent, int) and exponent < 0:
        return Fraction(1) / Fraction(base) ** -exponent
    if isinstance(base, Fraction) and abs(exponent) > 64:
        return float(base) ** exponent  # the exact power has millions of digits
    return base**exponent


def call(name: str, values: list[Amount], *, exact: bool) -> Amount:
    """Min, Max, floor, ceiling or Mod of numbers, or of arrays."""
    if exact:
        if name == "Mod":
            return values[0] % values[1]
        if name in ("Min", "Max"):
            return (min if name == "Min" else max)(values)
        return (math.floor if name == "floor" else math.ceil)(values[0])
    import numpy

    if name in ("Min", "Max"):
        function = numpy.minimum if name == "Min" else numpy.maximum
        result = values[0]
        for value in values[1:]:
            result = function(result, value)
        return result
    return {"floor": numpy.floor, "ceiling": numpy.ceil, "Mod": numpy.mod}[name](*values)


def _checked(text: Text) -> Node:
    """The evaluator of a text that is beyond doubt; one of `_DOUBTS` for any other."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise TypeError(text)
    if isinstance(text, str) and len(text) > MAX_TEXT:
        raise ValueError(text)
    body = ast.parse(text.strip(), mode="eval").body if isinstance(text, str) else None
    node = _constant(text) if body is None else _number(body)
    value = node(_SAMPLE, False)
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError(text)
    return node


def _constant(value: Any) -> Node:  # Any: a number of the text
    in_floats = float(value)
    return lambda _, exact: value if exact else in_floats


def _number(node: ast.expr) -> Node:
    """The evaluator of an expression that is a number."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _constant(value)
        case ast.Name(id="b" | "s" | "p" as name):
            return lambda at, _: at[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _number(operand)
            return lambda at, exact: -inner(at, exact)
        case ast.BinOp(left=left, op=sign, right=right):
            return _binary(sign, _number(left), _number(right))
        case ast.Call(func=ast.Name(id="Piecewise"), args=[_, *_] as args, keywords=[]):
            return _piecewise(args)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _ARGUMENTS:
            fewest, most = _ARGUMENTS[name]
            parts = [_number(arg) for arg in args]
            if fewest <= len(parts) <= most:
                return lambda at, exact: call(name, [n(at, exact) for n in parts], exact=exact)
    raise ValueError(ast.unparse(node))


def _binary(sign: ast.operator, left: Node, right: Node) -> Node:
    if isinstance(sign, ast.Pow):
        return lambda at, exact: power(left(at, exact), plain(right(at, exact)), exact=exact)
    if isinstance(sign, ast.Div):
        return _divide(left, right)
    if type(sign) not in _OPERATORS:
        raise ValueError(type(sign).__name__)
    return _apply(_OPERATORS[type(sign)], left, right)


def _apply(function: Callable[[Any, Any], Any], left: Node, right: Node) -> Node:
    return lambda at, exact: function(left(at, exact), right(at, exact))


def _divide(left: Node, right: Node) -> Node:
    return lambda at, exact: (
        _quotient(left(at, exact), right(at, exact))
        if exact
        else left(at, exact) / right(at, exact)
    )


def _quotient(left: Amount, right: Amount) -> Amount:
    if isinstance(left, float) or isinstance(right, float):
        return left / right
    return Fraction(left) / right


def _truth(node: ast.expr) -> Node:
    """The evaluator of a condition."""
    match node:
        case ast.Constant(value=bool() as value):
            return lambda *_: value
        case ast.Compare(left=left, ops=[comparison], comparators=[right]) if (
            type(comparison) in _COMPARISONS
        ):
            return _compare(_COMPARISONS[type(comparison)], left, right)
        case ast.Call(func=ast.Name(id="Eq" | "Ne" as name), args=[left, right], keywords=[]):
            return _compare(operator.eq if name == "Eq" else operator.ne, left, right)
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as sign, right=right):
            join = operator.and_ if isinstance(sign, ast.BitAnd) else operator.or_
            one, other = _truth(left), _truth(right)
            return lambda at, exact: join(one(at, exact), other(at, exact))
    raise ValueError(ast.unparse(node))


def _compare(function: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr) -> Node:
    one, other = _number(left), _number(right)
    return lambda at, exact: function(one(at, exact), other(at, exact))


def _piecewise(args: list[ast.expr]) -> Node:
    cases = []
    for arg in args:
        if not isinstance(arg, ast.Tuple) or len(arg.elts) != 2:
            raise ValueError(ast.unparse(arg))
        cases.append((_number(arg.elts[0]), _truth(arg.elts[1])))

    def value(at: At, exact: bool) -> Amount:
        if not exact:
            return _select(cases, at)
        for number, truth in cases:
            if truth(at, exact):
                return number(at, exact)
        raise OpListFormatError(f"No case of a Piecewise holds at {dict(at)}.")

    return value


def _select(cases: list[tuple[Node, Node]], at: At) -> Amount:
    """The first case that holds, place by place."""
    import numpy

    with numpy.errstate(all="ignore"):  # in places where another case holds
        numbers = [number(at, False) for number, _ in cases]
    truths = [numpy.asarray(truth(at, False), dtype=bool) for _, truth in cases]
    if not numpy.logical_or.reduce(numpy.broadcast_arrays(*truths)).all():
        raise OpListFormatError("No case of a Piecewise holds at some of the workloads.")
    return numpy.select(numpy.broadcast_arrays(*truths), numpy.broadcast_arrays(*numbers))
