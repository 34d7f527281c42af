"""Regimes: a window whose mask a kernel takes as a tensor changes times at once, and both sides are estimated right."""

import dataclasses

import numpy
import pytest

from oplib.kind import OpKind
from oplib.op import kind
from perfdb.database import PerfDatabase
from perfdb.efficiency import groups_of
from perfdb.estimator import Estimator, gaps_of, subset
from perfdb.folds import site_of
from perfdb.kriging import Component, Covariance, Field
from perfdb.regimes import Sides, regimes_of
from perfdb.row_checks import check_rows
from perfdb.systems import load_system
from perfdb.tables import read_table
from tests.perfdb import attention_table
from tests.perfdb.attention_table import STEP, SYSTEM, WINDOW, milliseconds, params

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

KIND = kind("context_attention")
HEADS = (16, 4)
BEFORE = [(3, 900, 0), (3, 1023, 0), (6, 1024, 0), (1, 700, 0), (3, 300, 0)]
AFTER = [(3, 1025, 0), (3, 1100, 0), (6, 1500, 0), (1, 3500, 0), (3, 700, 1024), (6, 1500, 2000)]


@pytest.fixture(scope="module", autouse=True)
def nothing_kept(tmp_path_factory):
    """Fits of these tables are not kept between runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def table_of(folder, **changes):
    return read_table(attention_table.write(folder, **changes), KIND)


def group_of(table):
    (found,) = groups_of(table, load_system(SYSTEM))
    return found


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return group_of(table_of(tmp_path_factory.mktemp("step")))


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    attention_table.write(folder)
    return PerfDatabase.load(system=SYSTEM, backend="toy", mode="silicon", data=folder)


@pytest.mark.parametrize(("b", "s", "p"), BEFORE + AFTER)
def test_both_sides_of_the_step(db, b, s, p):
    """Between the last size before and the first after, ten times apart, each place is near its own side's law."""
    found = db.price(KIND, params(*HEADS, WINDOW), {"b": b, "s": s, "p": p})
    truth = milliseconds(*HEADS, WINDOW, STEP, b=b, s=s, p=p)
    assert found.latency == pytest.approx(truth, rel=0.08)


def test_an_array_is_priced_as_its_places(db):
    """Places of both sides at once, broadcast, cost what each costs alone."""
    s, b = numpy.array([900, 1024, 1025, 1100, 4000]), numpy.array([[1], [3]])
    whole = db.price(KIND, params(*HEADS, WINDOW), {"b": b, "s": s, "p": 0})
    assert whole.latency.shape == (2, 5)
    for i, j in numpy.ndindex(2, 5):
        dims = {"b": int(b[i, 0]), "s": int(s[j]), "p": 0}
        one = db.price(KIND, params(*HEADS, WINDOW), dims)
        assert whole.latency[i, j] == pytest.approx(one.latency, rel=1e-12)


def test_measured_rows_come_back_as_they_are(group):
    found = Estimator.fit(group).estimate(group.points)
    assert found.value.tolist() == group.ratios.tolist()


def test_the_other_side_is_no_row_of_this_one(group):
    """A row before the step, asked as if the masked kernel ran there, answers as that one would."""
    estimator = Estimator.fit(group)
    row = int(numpy.flatnonzero((regimes_of(group) == 0) & (group.rows.dims["s"] == 1024))[0])
    point = group.points[row : row + 1]
    (masked,) = estimator.estimate(point, numpy.array([1])).value
    assert masked - group.ratios[row] == pytest.approx(numpy.log(STEP), abs=0.15)


@pytest.mark.parametrize("changes", [{"window": 0}, {"step": 1.0}])
def test_no_step_changes_nothing(tmp_path, monkeypatch, changes):
    """Without a window, or where times do not change at it, estimates are those of a kind that knows no regime."""
    flat = group_of(table_of(tmp_path, **changes))
    between = flat.points[::7] + 0.2
    found = Estimator.fit(flat)
    assert found.sides is None
    monkeypatch.setattr(type(KIND), "regime", OpKind.regime)
    plain = Estimator.fit(flat)
    assert found.model == plain.model
    assert found.estimate(between).value.tolist() == plain.estimate(between).value.tolist()
    assert found.estimate(between).deviation.tolist() == plain.estimate(between).deviation.tolist()


def test_few_rows_are_no_side(group):
    """Eleven rows before the step are too few to be told apart, and still the group answers."""
    before = numpy.flatnonzero(regimes_of(group) == 0)
    few = subset(group, numpy.setdiff1d(numpy.arange(len(group.ratios)), before[11:]))
    assert regimes_of(few) is None
    assert numpy.isfinite(Estimator.fit(few).estimate(group.points[:5] + 0.1).value).all()


def test_left_out_rows_keep_to_their_side(group):
    """With the whole shape hidden, rows of both sides are foretold within a few percent."""
    asked = numpy.arange(len(group.ratios))
    found = Estimator.fit(group).leave_out(asked, site_of(group))
    off = numpy.abs(found.value - group.ratios)
    assert numpy.quantile(off, 0.9) < 0.08


def test_a_side_that_is_all_hidden_is_told_by_the_rest():
    """Where no row of the same side stays known, the field of all rows answers."""
    points = numpy.arange(20.0)[:, None]
    covariance = Covariance(components=(Component(deviation=1.0, lengths=(5.0,)),), noise=0.01)
    whole = Field(points, numpy.repeat([0.0, 3.0], 10), covariance)
    regimes = numpy.repeat([0, 1], 10)
    asked = numpy.array([3, 12])
    found = Sides(whole, regimes).leave_out(asked, regimes)
    assert found.value == pytest.approx(whole.leave_out(asked, regimes).value)
    alone = Sides(whole, regimes).leave_out(asked, numpy.arange(20))
    assert alone.value == pytest.approx([0.0, 3.0], abs=0.01)


def test_a_step_is_no_doubtful_row(tmp_path):
    """Rows at a step are not far from their neighbours; one that is off among those of its side still is."""
    system, steep = load_system(SYSTEM), table_of(tmp_path, step=40.0)
    group = group_of(steep)
    assert gaps_of(group).any()
    assert not gaps_of(group, regimes_of(group)).any()
    assert not check_rows(steep, system).marks["far_from_neighbours"].any()
    place = int(numpy.flatnonzero((steep.dims["s"] == 2048) & (steep.dims["p"] == 1024))[0])
    latency = steep.latency.copy()
    latency[place] *= 20
    off = dataclasses.replace(steep, latency=latency)
    assert numpy.flatnonzero(check_rows(off, system).marks["far_from_neighbours"]).tolist() == [
        place
    ]
    assert numpy.flatnonzero(gaps_of(group_of(off), regimes_of(group))).tolist() == [place]
