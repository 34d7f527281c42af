"""Stated efficiencies are those of the rows they were fitted to."""

import numpy
import pytest

pytest.importorskip("scipy")

from fit_empirical import fit


def test_shares_launch_and_spread_come_back():
    """Rows that follow 0.6 of peak, 0.8 of bandwidth and 5 us, with 3 % noise."""
    random = numpy.random.default_rng(0)
    compute, memory = numpy.exp(random.uniform(-7, 3, (2, 3000)))
    exact = numpy.maximum(compute / 0.6, memory / 0.8) + 0.005
    noise = numpy.exp(0.03 * random.standard_normal(3000))
    found = fit(numpy.stack([compute, memory, exact * noise], axis=1))
    assert found["compute"] == pytest.approx(0.6, rel=0.02)
    assert found["memory"] == pytest.approx(0.8, rel=0.02)
    assert found["launch_ms"] == pytest.approx(0.005, rel=0.05)
    assert found["uncertainty"] == pytest.approx(0.03, rel=0.2)


def test_the_side_that_binds_is_found():
    """Rows at 0.5 % of peak, whose bytes are the longer side of the bound: a fit that begins near both would blame
    the bytes."""
    random = numpy.random.default_rng(0)
    compute = numpy.exp(random.uniform(-7, 3, 1000))
    memory = compute * numpy.exp(random.uniform(0, 3, 1000))
    found = fit(numpy.stack([compute, memory, compute / 0.005 + 0.05], axis=1))
    assert found["compute"] == pytest.approx(0.005, rel=0.02)
    assert found["uncertainty"] < 0.01


def test_groups_count_alike_in_the_spread():
    """Of 1000 rows as stated and 10 of another sort at 1.5 times that, the few are half of what is known."""
    compute = numpy.geomspace(0.1, 10, 1010)
    off = numpy.arange(1010) % 101 == 100
    rows = numpy.stack([compute, compute * 0, compute / 0.5 * (1 + 0.5 * off)], axis=1)
    weights = numpy.where(off, 1 / off.sum(), 1 / (~off).sum())
    assert fit(rows)["uncertainty"] < 0.01
    assert fit(rows, weights)["uncertainty"] == pytest.approx(0.5, rel=0.05)
