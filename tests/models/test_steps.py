"""Means over generation steps next to the plain loop over them."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import steps
from models.steps import Nodes

PLACES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=5)


def arrays(places):
    first = numpy.array([start for start, _ in places])
    return first, first + numpy.array([count for _, count in places]) - 1


def loop(function, row, first, last):
    return [
        numpy.mean([function(r, p) for p in range(a, z + 1)])
        for r, a, z in zip(row, first, last, strict=True)
    ]


@given(PLACES, st.integers(0, 1000))
def test_every_step_counts_once(places, seed):
    """Within the budget the mean is that of the values themselves, however rough they are."""
    first, last = arrays(places)
    nodes = Nodes.over(first, last, rows=2)
    values = numpy.random.default_rng(seed).normal(size=(2, len(nodes.p)))
    row = numpy.arange(len(places)) % 2
    found = nodes.mean(values, row=row, first=first, last=last)
    low = int(nodes.p[0])
    assert found == pytest.approx(loop(lambda r, p: values[r, p - low], row, first, last))


@given(PLACES, st.integers(0, 1000))
def test_worst_rank_of_the_steps(places, seed):
    """The worst origin of any step, and of no other."""
    first, last = arrays(places)
    nodes = Nodes.over(first, last, rows=2)
    ranks = numpy.random.default_rng(seed).integers(0, 5, (2, len(nodes.p))).astype(numpy.int8)
    row = numpy.arange(len(places)) % 2
    found = nodes.worst(ranks, row=row, first=first, last=last)
    low = int(nodes.p[0])
    expected = [
        ranks[r, a - low : z - low + 1].max() for r, a, z in zip(row, first, last, strict=True)
    ]
    assert found.tolist() == expected


def test_straight_lines_are_exact_beyond_the_budget(monkeypatch):
    """Between nodes the function is a line; one that is a line everywhere loses nothing."""
    monkeypatch.setattr(steps, "EXACT", 10)
    first, last = arrays([(0, 7), (1000, 1), (999, 5000), (4096, 1025)])
    nodes = Nodes.over(first, last, rows=1)
    assert len(nodes.p) < 2000
    values = (3.0 + 0.25 * nodes.p)[None, :]
    found = nodes.mean(values, row=numpy.zeros(4, dtype=int), first=first, last=last)
    assert found == pytest.approx(3.0 + 0.25 * (first + last) / 2, rel=1e-12)


def test_smooth_functions_lose_a_millionth(monkeypatch):
    """The error that the module's text states, for a power and a kink."""
    monkeypatch.setattr(steps, "EXACT", 10)
    first, last = arrays([(64, 400), (1000, 64), (3000, 3000), (8191, 2)])
    nodes = Nodes.over(first, last, rows=1)
    row = numpy.zeros(4, dtype=int)
    for function, most in (
        (lambda p: 2 + p**0.8, 5e-6),
        (lambda p: numpy.maximum(p, 4000) / 1e3, 1e-4),
    ):
        found = nodes.mean(function(nodes.p)[None, :], row=row, first=first, last=last)
        exact = loop(lambda _, p, f=function: f(p), row, first, last)
        assert numpy.abs(found / exact - 1).max() < most
