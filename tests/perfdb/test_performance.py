"""PerformanceResult: a float with energy, origin and uncertainty; sums and scalings keep the books."""

import math
import pickle

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oplib.errors import InvalidInputError
from perfdb.performance import ORIGINS, PerformanceArray, PerformanceResult, origin_rank

results = st.builds(
    PerformanceResult,
    st.just(0.0) | st.floats(1e-9, 1e6),
    energy=st.none() | st.floats(0, 1e9),
    origin=st.sampled_from(ORIGINS),
    uncertainty=st.floats(0, 2),
    energy_uncertainty=st.floats(0, 2),
)


def array_of(items):
    return PerformanceArray(
        numpy.array([float(item) for item in items]),
        energy=numpy.array([numpy.nan if i.energy is None else i.energy for i in items]),
        ranks=numpy.array([origin_rank(i.origin) for i in items], dtype=numpy.int8),
        uncertainty=numpy.array([i.uncertainty for i in items]),
        energy_uncertainty=numpy.array([i.energy_uncertainty for i in items]),
    )


def same(first, second):
    return (
        float(first) == pytest.approx(float(second), rel=1e-12)
        and first.origin == second.origin
        and first.uncertainty == pytest.approx(second.uncertainty, rel=1e-9)
        and (first.energy is None) == (second.energy is None)
        and (first.energy is None or first.energy == pytest.approx(second.energy, rel=1e-12))
        and (
            first.energy is None
            or first.energy_uncertainty == pytest.approx(second.energy_uncertainty, rel=1e-9)
        )
    )


def test_a_sum_by_hand():
    """3 ms ± 10 % and 4 ms ± 20 %: 7 ms ± hypot(0.3, 0.8)/7, the worse origin; energies likewise."""
    first = PerformanceResult(3.0, energy=300.0, uncertainty=0.1, energy_uncertainty=0.2)
    second = PerformanceResult(
        4.0, energy=800.0, origin="empirical", uncertainty=0.2, energy_uncertainty=0.3
    )
    total = first + second
    assert total.energy_uncertainty == pytest.approx(math.hypot(60, 240) / 1100)
    assert "1100 ± 22.5%" in repr(total)
    assert (total + 1.0).energy_uncertainty == total.energy_uncertainty
    assert (total, total.energy, total.origin) == (7.0, 1100.0, "empirical")
    assert total.uncertainty == pytest.approx(math.hypot(0.3, 0.8) / 7)
    assert (first.power, second.power) == (100.0, 200.0)


def test_it_behaves_as_a_float():
    """Whatever takes a float takes a result."""
    result = PerformanceResult(2.5, origin="sol")
    assert isinstance(result, float)
    assert (f"{result:.2f}", round(result), max(result, 2.0), result > 2) == ("2.50", 2, 2.5, True)
    assert math.sqrt(PerformanceResult(4.0)) == 2.0
    assert type(result / PerformanceResult(5.0)) is float
    assert type(result - 1) is float
    assert same(pickle.loads(pickle.dumps(result)), result)


@given(results, st.integers(1, 100))
def test_scaling_keeps_origin_and_relative_uncertainty(result, times):
    """A repetition has the same error each time."""
    scaled = times * result
    assert same(scaled, result * times)
    assert scaled == float(result) * times
    assert (scaled.origin, scaled.uncertainty) == (result.origin, result.uncertainty)
    assert same(scaled / times, result)


@given(st.lists(results, min_size=1, max_size=6))
def test_a_sum_is_as_good_as_its_worst_part(items):
    """`sum` works, in any order, and an array of the same results agrees with it."""
    total = sum(items)
    assert origin_rank(total.origin) == max(origin_rank(item.origin) for item in items)
    assert total.uncertainty <= max(item.uncertainty for item in items) * (1 + 1e-12)
    assert same(total, sum(reversed(items)))
    assert same(array_of(items).sum(), total)


@given(st.lists(st.tuples(results, results), min_size=1, max_size=4))
def test_arrays_add_as_their_elements_do(pairs):
    """Element by element the same books as scalars, also against one result and a number."""
    first, second = array_of([a for a, _ in pairs]), array_of([b for _, b in pairs])
    added, one, plain = first + second, pairs[0][1] + first, first + 2.0
    for i, (a, b) in enumerate(pairs):
        assert same(added[i], a + b)
        assert same(one[i], a + pairs[0][1])
        assert same(plain[i], a + 2.0)
        assert same((first * 3)[i], a * 3)
    assert list(added.origin) == [(a + b).origin for a, b in pairs]
    assert numpy.asarray(first[:1]).tolist() == [float(pairs[0][0])]


def test_an_unknown_origin_is_refused():
    """The list of origins is closed, and the message shows it."""
    with pytest.raises(InvalidInputError, match="'guessed'"):
        PerformanceResult(1.0, origin="guessed")


@pytest.mark.parametrize("number", [numpy.int64(3), numpy.float32(3), numpy.float64(3), 3, 3.0])
def test_numbers_of_numpy_keep_origin_and_uncertainty(number):
    """On either side of a sum or a product, as Python's own do."""
    one = PerformanceResult(2.0, energy=10.0, origin="empirical", uncertainty=0.1)
    for scaled in (one * number, number * one):
        assert same(scaled, one * 3)
    for total in (one + number, number + one):
        assert same(total, one + 3)
    assert same(one / number, one / 3)
    assert type(numpy.arange(3) * one) is numpy.ndarray


@pytest.mark.parametrize("turned", [False, True])
def test_arrays_of_more_dimensions_spread_every_field(turned):
    """A sum or product with a column of numbers: each result has an origin and an uncertainty."""
    row = array_of([PerformanceResult(i, origin=ORIGINS[i], uncertainty=i / 10) for i in (1, 2, 3)])
    column = numpy.array([[1.0], [2.0]])
    product, total = (column * row, column + row) if turned else (row * column, row + column)
    assert same(product[1, 2], row[2] * 2)
    assert same(total[1, 2], row[2] + 2.0)
    assert product.origin.shape == total.energy.shape == (2, 3)


def test_numpy_s_sum_keeps_the_books():
    items = [PerformanceResult(i, origin=ORIGINS[i], uncertainty=i / 10) for i in (1, 2, 3, 4)]
    found = array_of(items)
    square = found[numpy.arange(4).reshape(2, 2)]
    assert same(numpy.sum(found), found.sum())
    assert same(square.sum(axis=0)[1], items[1] + items[3])
    assert same(numpy.sum(square, axis=1)[0], items[0] + items[1])
    assert (found > 2).tolist() == [False, False, True, True]
    assert (found <= found).all()
