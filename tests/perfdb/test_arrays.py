"""Distinct values and numbers for keys are those that numpy sorts out, whatever the spread of the keys."""

import numpy
import pytest

from perfdb.arrays import distinct, numbered


@pytest.mark.parametrize("span", [1, 7, 40, 10_000, 2**50])
@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_as_numpy_has_them(span, count):
    """Keys close together are counted, keys far apart sorted; negative ones are keys too."""
    keys = numpy.random.default_rng(span + count).integers(-span, span, count)
    values, numbers = numpy.unique(keys, return_inverse=True)
    assert numpy.array_equal(distinct(keys), values)
    assert numpy.array_equal(numbered(keys), numbers)
