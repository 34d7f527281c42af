"""Few places or many, the neighbours are the same."""

import itertools

import numpy

from perfdb import nearest
from perfdb.nearest import Nearest


def test_both_ways_agree(monkeypatch):
    """On a grid, where distances tie, and at its own points."""
    grid = numpy.array(list(itertools.product(range(12), range(9), range(5))), dtype=float)
    places = numpy.concatenate([grid[::7], grid[::11] + 0.5])
    few = Nearest(grid).query(places, 20)
    monkeypatch.setattr(nearest, "MOST", 0)
    many = Nearest(grid).query(places, 20)
    assert numpy.array_equal(numpy.sort(few, axis=1), numpy.sort(many, axis=1))
    everything = Nearest(grid).query(places[:1], len(grid))
    assert sorted(everything[0].tolist()) == list(range(len(grid)))


def test_nothing_nearer_is_left_out():
    """The furthest neighbour found is nearer than what was not, up to the deciding move."""
    rng = numpy.random.default_rng(5)
    points, places = rng.normal(size=(300, 2)), rng.normal(size=(10, 2))
    found = Nearest(points).query(places, 8)
    far = numpy.sqrt(numpy.square(places[:, None] - points).sum(-1))
    for place, chosen in enumerate(found):
        rest = numpy.setdiff1d(numpy.arange(300), chosen)
        assert far[place, chosen].max() <= far[place, rest].min() + 1e-5


def test_all_points_but_one_tie():
    """A ring of equal distances gives as many as were asked."""
    turn = numpy.linspace(0, 2 * numpy.pi, 50, endpoint=False)
    ring = numpy.stack([numpy.cos(turn), numpy.sin(turn)], axis=1)
    assert len(set(Nearest(ring).query(numpy.zeros((1, 2)), 7)[0].tolist())) == 7
