"""Calibration: deviations at shapes that no row has follow the rows left out nearest to them."""

import numpy
import pytest

from perfdb.calibration import FAR, NEAR, Calibration, width_of

SHAPES = numpy.repeat([0.0, 5.0], 40)[:, None]  # octaves; foretold well, and five times worse
SIZES = numpy.concatenate([numpy.linspace(0.1, 1.0, 40), numpy.linspace(0.5, 5.0, 40)])
CALIBRATION = Calibration(known=0.7, rows=numpy.arange(80), shapes=SHAPES, sizes=SIZES)


def test_a_width_puts_the_meant_shares_within_one_and_two_deviations():
    """Errors of a normal law in deviations that are a third of the true one: three of them."""
    sizes = numpy.abs(3 * numpy.random.default_rng(0).standard_normal(100_000))
    assert width_of(sizes) == pytest.approx(3, rel=0.06)


def test_a_new_shape_has_the_width_of_the_shapes_beside_it():
    """At either shape that of its own rows; between them one between."""
    near, between, far = CALIBRATION.widths(numpy.array([[0.0], [2.5], [5.0]]))
    assert near == pytest.approx(width_of(SIZES[:40]), rel=0.1)
    assert far == pytest.approx(width_of(SIZES[40:]), rel=0.1)
    assert near < between < far


def test_barred_rows_tell_nothing():
    """Without the rows of its own shape the other shape answers; without any, the width of known shapes."""
    own = numpy.arange(80) < 40
    widths = CALIBRATION.widths(numpy.zeros((2, 1)), numpy.stack([own, numpy.ones(80, dtype=bool)]))
    assert widths[0] == pytest.approx(width_of(SIZES[40:]), rel=0.1)
    assert widths[1] == 0.7


def test_where_no_shape_was_left_out_all_have_one_width():
    nothing = Calibration(
        known=0.7, rows=numpy.arange(0), shapes=numpy.zeros((0, 1)), sizes=numpy.zeros(0)
    )
    assert nothing.widths(numpy.zeros((3, 1))).tolist() == [0.7] * 3


def test_shares_are_in_order():
    assert 0.6 < NEAR < 0.76 < 0.9 < FAR < 0.98
