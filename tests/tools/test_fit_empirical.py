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
