"""Estimator: exact where measured, held outside, calibrated between, and defined for any group."""

from dataclasses import replace

import numpy
import pytest

from oplib.op import kind
from perfdb.efficiency import groups_of
from perfdb.estimator import Estimator, subset
from perfdb.features import features_of
from perfdb.places import Places
from perfdb.systems import load_system
from perfdb.tables import read_table
from tests.perfdb import gemm_table

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    table = gemm_table.write(tmp_path_factory.mktemp("tables"))
    (found,) = groups_of(read_table(table, kind("gemm")), load_system("h200_sxm"))
    return found


@pytest.fixture(scope="module")
def estimator(group):
    return Estimator.fit(group)


def test_measured_rows_come_back_as_they_are(group, estimator):
    """At every row its own ratio, and the row's number; beside it none."""
    places = numpy.arange(len(group.ratios))
    assert estimator.known(group.points).tolist() == places.tolist()
    assert estimator.estimate(group.points).value.tolist() == group.ratios.tolist()
    assert estimator.known(group.points[:3] + 1e-6).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("octaves", [1.0, 3.0])
def test_outside_the_edge_is_held_and_doubt_grows(group, estimator, octaves):
    """Past the largest n and k the value is that of the edge; the deviation is no smaller, and larger further out."""
    edge = group.points[(group.points == estimator.upper).all(axis=1)]
    assert len(edge) == 1
    inner, outer = edge - numpy.array([0.2, 0, 0]), edge + numpy.array([-0.2, octaves, octaves])
    at_edge, far = estimator.estimate(inner), estimator.estimate(outer)
    assert far.value == pytest.approx(at_edge.value)
    assert far.deviation[0] >= at_edge.deviation[0]
    further = estimator.estimate(outer + numpy.array([0, 2.0, 2.0]))
    assert further.deviation[0] >= far.deviation[0]


def test_deviations_cover_rows_that_did_not_set_them(group):
    """Rows that had no say in the width, six draws of 300: about 68 % within one deviation, about 95 % within two."""
    drawn = []
    for seed in range(6):
        asked = numpy.random.default_rng(seed).permutation(len(group.ratios))[:300]
        fitted = Estimator.fit(group, spared=asked)
        found = fitted.leave_out(asked, fitted.places.codes)
        drawn.append(numpy.abs(group.ratios[asked] - found.value) / found.deviation)
    z = numpy.concatenate(drawn)
    assert 0.60 < (z < 1).mean() < 0.80
    assert 0.90 < (z < 2).mean() < 0.99


def test_ten_times_the_noise_is_seen(group):
    """The stated deviation follows the scatter of the group's own rows."""
    noise = 0.1 * numpy.random.default_rng(3).standard_normal(len(group.ratios))
    between = group.points[::7] + numpy.array([0.0, 0.3, 0.3])
    calm = Estimator.fit(group).estimate(between).deviation
    rough = Estimator.fit(replace(group, ratios=group.ratios + noise)).estimate(between).deviation
    assert numpy.median(rough) > 3 * numpy.median(calm)


def test_a_row_twice_changes_little(group):
    """Every row twice: places answer with the first, and estimates between hardly move."""
    twice = subset(group, numpy.repeat(numpy.arange(len(group.ratios)), 2))
    one, two = Estimator.fit(group), Estimator.fit(twice)
    assert two.known(group.points[:4]).tolist() == [0, 2, 4, 6]
    between = group.points[::9] - numpy.array([0.0, 0.2, 0.1])
    assert two.estimate(between).value == pytest.approx(one.estimate(between).value, abs=0.03)
    assert numpy.isfinite(two.estimate(between).deviation).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_rows_answer(group, count):
    """A row, or a few, speak for all places: near their values, with a finite positive deviation."""
    few = subset(group, numpy.arange(count))
    found = Estimator.fit(few).estimate(group.points[100:110])
    assert (found.value >= few.ratios.min() - 0.5).all()
    assert (found.value <= few.ratios.max() + 0.5).all()
    assert (found.deviation > 0).all()
    assert numpy.isfinite(found.deviation).all()


def test_one_varying_coordinate(group):
    """A single shape over m: between two rows the estimate lies near both."""
    line = subset(group, numpy.flatnonzero((group.points[:, 1:] == [10, 10]).all(axis=1)))
    middle = numpy.array([[7.5, 10.0, 10.0]])
    (value,) = Estimator.fit(line).estimate(middle).value
    near = line.ratios[numpy.abs(line.points[:, 0] - 7.5) < 0.6]
    assert near.min() - 0.1 < value < near.max() + 0.1


def test_features_are_products_and_tiles():
    """Logarithms add and subtract; alignment counts halvings up to 128; what is no whole number counts as aligned."""
    sizes = numpy.array([[96.0, 8.0, 2.0], [129.0, 8.0, 4.0], [4096.0, 1.0, 1.0], [2.5, 1.0, 1.0]])
    found = features_of(numpy.log2(sizes), ["m*h", "h/v", "align m"], ["m", "h", "v"])
    assert numpy.exp2(found[:, 0]) == pytest.approx([768, 1032, 4096, 2.5])
    assert numpy.exp2(found[:, 1]) == pytest.approx([4, 2, 1, 1])
    assert found[:, 2].tolist() == [5, 0, 7, 7]


def test_places_tell_rows_apart():
    """Rounding of a logarithm makes no second place; another coordinate does."""
    points = numpy.array([[0.0, 1.0], [0.1 + 0.2, 1.0], [0.3, 1.0], [0.3, 2.0]])
    places = Places(points)
    assert places.codes[1] == places.codes[2]
    assert len(numpy.unique(places.codes)) == 3
    asked = numpy.array([[0.3, 1.0], [0.0, 2.0], [0.3, 2.0], [9.0, 9.0]])
    assert places.find(asked).tolist() == [1, -1, 3, -1]
