"""Expressions: text in, text out, and a value that is exact."""

import math
from fractions import Fraction

import numpy
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from oplib.arithmetic import ceil_div, floor_div, maximum, minimum, modulo
from oplib.errors import OpListFormatError
from oplib.symbols import B, P, S, evaluate, format_expr, parse_expr

LEAVES = st.sampled_from([B, S, P]) | st.integers(0, 9).map(sympy.Integer)


def _grow(children):
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda x: x[0] + x[1]),
        pairs.map(lambda x: x[0] * x[1]),
        pairs.map(lambda x: minimum(*x)),
        pairs.map(lambda x: maximum(*x)),
        children.map(lambda x: sympy.sympify(floor_div(x, 3))),
        children.map(lambda x: ceil_div(x, 3)),
        children.map(lambda x: sympy.sympify(modulo(x, 5))),
        children.map(lambda x: x / 2),
    )


EXPRESSIONS = st.recursive(LEAVES, _grow, max_leaves=6)
SMALL = st.integers(0, 12)


@given(EXPRESSIONS, SMALL, SMALL, SMALL)
def test_round_trip_keeps_the_value(expr, b, s, p):
    """parse(format(e)) is the same function as e, and evaluate agrees with sympy's substitution."""
    ours = evaluate(expr, b=b, s=s, p=p)
    again = parse_expr(format_expr(expr))
    assert evaluate(again, b=b, s=s, p=p) == ours
    theirs = expr.subs({B: b, S: s, P: p})
    assert Fraction(int(theirs.p), int(theirs.q)) == Fraction(ours)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*b*s*4096", 2 * 2 * 3 * 4096),
        ("b*s*(s + 1)/2", 12),
        ("s**2 - p", 4),
        ("Min(p, 4) + Max(b, s)", 7),
        ("floor(p/2) + ceiling(p/2)", 5),
        ("Mod(p, 3)", 2),
        ("-b", -2),
        ("s/2", 1.5),
        ("8*(1 - (3/4)**b)", 3.5),
        ("Piecewise((p, s > 2), (1, True))", 5),
        ("Piecewise((p, (s > 2) & (b < 2)), (1, True))", 1),
        ("Piecewise((p, Eq(b, 2)), (1, True))", 5),
        (7, 7),
        (2.5, 2.5),
    ],
)
def test_value(text, value):
    """At b=2, s=3, p=5."""
    result = evaluate(parse_expr(text), b=2, s=3, p=5)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("text", ["b*s*(s + 1)/2", "Min(p, 4) + Max(b, s) + Mod(p, 3)", "s**2"])
@pytest.mark.parametrize("extra", ["", " + Piecewise((p, s > 2), (1, True))", " + ceiling(p/2)"])
def test_arrays(text, extra):
    """An array of workloads gives the array of values."""
    expr, p = parse_expr(text + extra), numpy.arange(6).reshape(2, 3)
    result = evaluate(expr, b=2, s=3, p=p)
    assert result.shape == (2, 3) or "p" not in text + extra
    singles = [evaluate(expr, b=2, s=3, p=int(x)) for x in p.ravel()]
    assert numpy.broadcast_to(result, (2, 3)).ravel().tolist() == singles


def test_exact_above_the_floats():
    """Work of a large model exceeds 2**53 and stays exact, halves included."""
    s = 2**31 + 1
    assert evaluate(parse_expr("b*s*(s + 1)/2"), b=3, s=s) == 3 * s * (s + 1) // 2


def test_large_exponent_is_quick():
    """(31/32)**(b*s) is a float, not a fraction of millions of digits."""
    expr = parse_expr("(31/32)**(b*s)")
    assert evaluate(expr, b=1, s=1000) == pytest.approx(math.exp(1000 * math.log(31 / 32)))
    assert evaluate(expr, b=1024, s=1_000_000) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "b s",
        "b.real",
        "b[0]",
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "[b for b in (1,)]",
        "sin(b)",
        "Min(b, key=s)",
        "Min()",
        "floor(b, s)",
        "Piecewise(b)",
        "'b'",
        "b if s else p",
        "b and s",
        "b > s",
        "b // 2",
        "b @ s",
        "True",
        "1/0",
        "(-1)**(1/2)",
        "9**9**9**9",
        "1e999",
        "2j",
        "b\ns",
        "b" + "+b" * 20_000,
        "(" * 5_000 + "b" + ")" * 5_000,
        "-" * 9_000 + "b",
        "9" * 10_000,
        True,
        None,
        [1],
        float("nan"),
        float("inf"),
    ],
)
def test_bad_text_is_refused(text):
    """Only the small language is read; the message names what stands there."""
    with pytest.raises(OpListFormatError) as error:
        parse_expr(text)
    assert len(str(error.value)) < 500
    assert error.value.exit_code == 2


def test_integers_are_written_as_numbers():
    """A constant is an int in JSON."""
    assert format_expr(parse_expr("2*3")) == 6
    assert format_expr(B * S) == "b*s"
