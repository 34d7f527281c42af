"""Texts evaluated from their syntax tree give what sympy's expressions give."""

import subprocess
import sys
from fractions import Fraction

import numpy
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from oplib.errors import OpListFormatError
from oplib.op import Op
from oplib.spelled import Spelled, Term, light, of, value_of
from oplib.symbols import B, evaluate, format_expr, parse_expr
from tests.oplib.test_symbols import EXPRESSIONS, SMALL


@given(EXPRESSIONS, SMALL, SMALL, SMALL)
def test_agrees_with_sympy(expr, b, s, p):
    """Exactly on integers, type included, and on arrays."""
    dims = Spelled.read({"m": format_expr(expr)})
    ours, theirs = dims.at(b=b, s=s, p=p)["m"], evaluate(expr, b=b, s=s, p=p)
    assert ours == theirs
    assert type(ours) is type(theirs)
    many = dims.at(b=numpy.arange(1, 4), s=s, p=p)["m"]
    singles = [evaluate(expr, b=x, s=s, p=p) for x in range(1, 4)]
    assert numpy.broadcast_to(many, (3,)).tolist() == pytest.approx(singles)
    assert dims["m"] == parse_expr(format_expr(expr))


@pytest.mark.parametrize(
    "text",
    ["Piecewise((p, s > 2), (1, True))", "Piecewise((p, (s > 2) & (b < 2)), (1/b, Ne(b, 0)))"],
)
def test_piecewise_on_arrays(text):
    """Each place takes its own case, and a case that does not hold there may divide by zero."""
    b, s = numpy.array([[1], [3]]), numpy.array([1, 3])
    found = Spelled.read({"m": text}).at(b=b, s=s, p=5)["m"]
    expected = [[evaluate(parse_expr(text), b=i, s=j, p=5) for j in (1, 3)] for i in (1, 3)]
    assert numpy.broadcast_to(found, (2, 2)).tolist() == expected


def test_no_case_holds():
    """A Piecewise without an answer is an error, for a number and in an array."""
    dims = Spelled.read({"m": "Piecewise((1, b > 1))"})
    for b in (1, numpy.array([1, 2])):
        with pytest.raises(OpListFormatError, match="No case"):
            dims.at(b=b, s=1, p=0)


@pytest.mark.parametrize(
    "text", ["1/0", "b > s", "True", "9**9**9**9", "1e999", "(-1)**(1/2)", "x", "b +", None, "-" * 9_000 + "b"]
)  # fmt: skip
def test_bad_text_is_refused(text):
    """What the quick reader doubts, sympy's judges."""
    with pytest.raises(OpListFormatError):
        Spelled.read({"m": text})


def test_doubt_is_no_refusal():
    """A pole at the sample workload is no mistake."""
    assert evaluate(Spelled.read({"m": "6/(b - 2)"})["m"], b=4) == 3


def test_no_sympy_is_loaded():
    """A price of an op list that was read from a file does without sympy and torch."""
    op = Op(op="gemm", name="q", params={"n": 4, "k": 5, "dtype": "bfloat16"}, dims={"m": "b*s"})
    script = (
        "import sys; from oplib.op import Op; from perfdb.database import PerfDatabase\n"
        f"op = Op.from_json({op.to_json()!r})\n"
        "print(float(op.query(PerfDatabase.load(system='h200_sxm'), batch_size=2, s=3)) > 0)\n"
        "print(sorted({'sympy', 'torch', 'scipy', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["True", "[]"], done.stderr


@given(EXPRESSIONS, EXPRESSIONS, st.integers(1, 9), SMALL, SMALL, SMALL)
def test_arithmetic_of_terms(one, other, number, b, s, p):
    """Terms join with terms, whole numbers and fractions as sympy's expressions do, exactly."""
    left, right = (Term.read(format_expr(expr)) for expr in (one, other))
    ours = left * 2 - right * Fraction(2, number) + Fraction(1, number) * left + number - 1
    theirs = (
        one * 2 - other * sympy.Rational(2, number) + sympy.Rational(1, number) * one + number - 1
    )
    assert value_of(ours, b=b, s=s, p=p) == evaluate(sympy.sympify(theirs), b=b, s=s, p=p)
    again = sympy.sympify(ours)
    assert evaluate(again, b=b, s=s, p=p) == value_of(ours, b=b, s=s, p=p)


def test_a_term_becomes_sympys():
    """Next to an expression of sympy a term is one, on either side; dims of both kinds are sympy's."""
    term = Term.read("b*s")
    assert term * B == B * term == B**2 * sympy.Symbol("s", integer=True, nonnegative=True)
    assert of({"m": term, "n": B})["m"] == parse_expr("b*s")
    assert isinstance(of({"m": term, "n": 3}), Spelled)
    assert light(of({"m": term}))["m"] is term
