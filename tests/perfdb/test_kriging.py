"""Kriging: exact where it is known, calibrated where it is not."""

from dataclasses import replace

import numpy
import pytest

from perfdb.kriging import Component, Covariance, Field

COVARIANCE = Covariance(
    components=(
        Component(deviation=0.5, lengths=(4.0, 4.0), smooth=True),
        Component(deviation=0.1, lengths=(0.5, 20.0)),
    ),
    noise=0.01,
)

SINGLE = 1e-5  # covariances are in single precision


def drawn(count, seed):
    """Points [n, 2] and values that follow COVARIANCE exactly."""
    random = numpy.random.default_rng(seed)
    points = random.uniform(0, 6, (count, 2)).round(1)
    matrix = COVARIANCE(points, points) + COVARIANCE.noise**2 * numpy.eye(count)
    return points, numpy.linalg.cholesky(matrix) @ random.standard_normal(count)


def whole_system(points, values, query):
    """Ordinary kriging from all points at once: value and variance, written out."""
    count = len(points)
    system = numpy.ones((count + 1, count + 1))
    system[:count, :count] = COVARIANCE(points, points) + COVARIANCE.noise**2 * numpy.eye(count)
    system[count, count] = 0
    right = numpy.append(COVARIANCE(query[None], points)[0], 1.0)
    weights = numpy.linalg.solve(system, right)
    return weights[:count] @ values


def test_a_field_of_few_points_is_plain_ordinary_kriging():
    """With every point a neighbour, the estimate is that of the one system over all points."""
    points, values = drawn(30, seed=1)
    queries = numpy.random.default_rng(2).uniform(0, 6, (7, 2))
    found = Field(points, values, COVARIANCE, neighbours=30).estimate(queries)
    for query, value in zip(queries, found.value, strict=True):
        assert value == pytest.approx(whole_system(points, values, query), abs=SINGLE)


def test_leaving_out_equals_a_field_without_the_group():
    """`leave_out` of a point gives what a field gives that never held its group."""
    points, values = drawn(60, seed=3)
    groups = numpy.arange(60) // 4
    field = Field(points, values, COVARIANCE, neighbours=56)
    found = field.leave_out(numpy.array([5, 50]), groups)
    for i, asked in enumerate((5, 50)):
        rest = groups != groups[asked]
        other = Field(points[rest], values[rest], COVARIANCE, neighbours=56)
        assert found.value[i] == pytest.approx(other.estimate(points[[asked]]).value[0], abs=SINGLE)


def test_the_deviation_covers_as_it_says():
    """On values that follow the model, one deviation covers about 68 % and two about 95 %."""
    points, values = drawn(1200, seed=4)
    asked = numpy.arange(1200)
    found = Field(points, values, COVARIANCE).leave_out(asked, asked)
    z = numpy.abs(values - found.value) / found.deviation
    assert 0.63 < (z < 1).mean() < 0.75
    assert 0.92 < (z < 2).mean() < 0.98


def test_rougher_data_than_the_model_says_widen_the_deviation():
    """Five times the residuals: the deviation follows, because the neighbours' residuals are asked."""
    points, values = drawn(400, seed=5)
    asked = numpy.arange(400)
    rough = values + 0.3 * numpy.random.default_rng(6).standard_normal(400)
    found = Field(points, rough, COVARIANCE).leave_out(asked, asked)
    calm = Field(points, values, COVARIANCE).leave_out(asked, asked)
    assert numpy.median(found.deviation) > 2 * numpy.median(calm.deviation)


def test_an_outlier_hardly_counts_where_noise_has_tails():
    """One neighbour off by ten: under normal noise the estimate beside it follows, under Student's t it hardly does."""
    points, values = drawn(200, seed=7)
    spoilt = values.copy()
    spoilt[17] += 10
    beside = points[[17]] + 0.3
    truth = Field(points, values, COVARIANCE).estimate(beside).value[0]
    plain = Field(points, spoilt, COVARIANCE).estimate(beside).value[0]
    tailed = Field(points, spoilt, replace(COVARIANCE, freedom=3.0)).estimate(beside).value[0]
    assert abs(tailed - truth) < abs(plain - truth) / 5


def test_disturbed_rows_do_not_lift_the_rest():
    """Every fourth value a tenth higher, as where something else ran: noise wider above finds the others' level."""
    points, values = drawn(400, seed=8)
    disturbed = values + 0.1 * (numpy.arange(400) % 4 == 0)
    asked = numpy.flatnonzero(numpy.arange(400) % 4 == 1)
    off = {}
    for freedom, skew in ((numpy.inf, 1.0), (3.0, 1.0), (3.0, 1.25)):
        covariance = replace(COVARIANCE, freedom=freedom, skew=skew)
        found = Field(points, disturbed, covariance).leave_out(asked, numpy.arange(400))
        off[freedom, skew] = numpy.median(found.value - values[asked])
    assert off[3.0, 1.25] < off[3.0, 1.0] < off[numpy.inf, 1.0]
    assert off[3.0, 1.25] < 0.5 * off[numpy.inf, 1.0]


def test_covariances_among_points_are_those_of_each_pair():
    points = drawn(12, seed=9)[0].reshape(3, 4, 2)
    assert COVARIANCE.among(points) == pytest.approx(COVARIANCE(points, points), abs=SINGLE)


def test_a_single_point_speaks_for_everything():
    """One known value is the answer everywhere."""
    field = Field(numpy.zeros((1, 2)), numpy.array([0.7]), COVARIANCE)
    assert field.estimate(numpy.ones((2, 2))).value.tolist() == pytest.approx([0.7, 0.7])
