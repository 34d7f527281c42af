"""Axes of plots: ticks that a reader can tell apart, whatever the plot holds, and lines that stay straight."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.report.svg import LEFT, RIGHT, WIDTH, Axes, Scale, short

LETTER = 6.5  # pixels of a tick's text at most


def ticks(values, **kind):
    scale = Scale.over(values, LEFT, WIDTH - RIGHT, **kind)
    return scale, scale.ticks()


@given(st.floats(1e-5, 1e12), st.floats(1.0, 1e9))
def test_a_logarithmic_axis_has_ticks(low, times):
    """Also where it holds no power of ten: at least two, inside, of different words that do not touch."""
    scale, found = ticks([low, low * times], log=True)
    assert 2 <= len(found) <= 9
    assert all(scale.low <= value <= scale.high for value in found)
    for left, right in pairwise(found):
        room = (len(short(left)) + len(short(right))) / 2 * LETTER
        assert scale(right) - scale(left) > room
        assert short(left) != short(right)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5, 0.5), [0.4, 0.5, 0.6]),
        ((0.02, 0.5), [0.02, 0.05, 0.1, 0.2, 0.5]),
        ((0.4, 80), [1, 3, 10, 30, 100]),
        ((0.1, 1e4), [0.1, 1, 10, 100, 1e3, 1e4]),
    ],
)
def test_logarithmic_ticks(values, expected):
    """Equal steps, 1-2-5, 1-3 and powers of ten, by the length of the axis."""
    assert ticks(values, log=True)[1] == pytest.approx(expected)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("log", [True, False])
def test_whole_numbers_have_whole_ticks(most, log):
    """There is no batch of 1.5, and no half of a row."""
    found = ticks([1, most], log=log, whole=True)[1]
    assert found
    assert all(value == int(value) for value in found)


@given(st.floats(1e-3, 1e3), st.floats(1.0, 1e4), st.floats(0.1, 10.0), st.floats(0.8, 1.25))
def test_a_line_of_equal_ratios_stays_straight(x, times, turn, factor):
    """Where it leaves the plot it ends, and does not run along the edge."""
    axes = Axes.over([(x, x), (x * times, x * times * turn)], ("x", "y"), log=(True, True))
    drawn = re.search(r'points="([^"]*)"', axes.ratio(factor, "roof"))[1]
    for place in drawn.split():
        at, up = map(float, place.split(","))
        share = (at - LEFT) / (WIDTH - RIGHT - LEFT)
        value = axes.x.low * (axes.x.high / axes.x.low) ** share * factor
        assert axes.y.low * 0.99 <= value <= axes.y.high * 1.01
        assert axes.y(value) == pytest.approx(up, abs=0.5)
