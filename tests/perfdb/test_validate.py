"""Leave-one-out on a table whose law is known."""

import json

import numpy
import pytest

from oplib.op import kind, op_kinds
from perfdb import validate
from perfdb.covariances import models_of
from perfdb.efficiency import groups_of
from perfdb.features import features_of
from perfdb.folds import FOLDS
from perfdb.systems import load_system
from perfdb.tables import read_table
from tests.perfdb import gemm_table

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return gemm_table.write(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def group(table):
    (found,) = groups_of(read_table(table, kind("gemm")), load_system("h200_sxm"))
    return found


@pytest.mark.parametrize(
    ("fold", "largest"), [("point", 0.03), ("site", 0.03), ("row", 0.05), ("frontier", 0.1)]
)
def test_errors_are_near_the_noise(table, fold, largest):
    """1 % noise: the median error of every fold stays small, and nearly all truths lie within two deviations."""
    groups = validate.large_groups(table, "gemm", "h200_sxm")
    *_, whole = validate.validate(groups, fold, seed=1, most=300)
    assert whole["median"] < largest
    assert whole["within_2_sigma"] > 0.85


def test_a_seed_draws_the_same_rows(group):
    one, again, other = (
        validate.validate([group], "point", seed=seed, most=40) for seed in (3, 3, 4)
    )
    assert one == again
    assert one != other


def test_bounds_and_ratios_give_the_latency(group):
    """latency = (bound + launch) · exp(ratio), row by row, no bound lies above its time, and the launch is just below
    the shortest times."""
    assert numpy.allclose(
        (group.bounds + group.launch) * numpy.exp(group.ratios), group.rows.latency
    )
    assert (group.bounds < group.rows.latency).all()
    assert 0.8 * group.rows.latency.min() < group.launch < numpy.quantile(group.rows.latency, 0.01)


def test_folds_hide_what_they_say(group):
    """point: ends of a line are not asked; site: all m of a shape together; row: all shapes of an m together."""
    m, n = group.points[:, 0], group.points[:, 1]
    point, site, row = (FOLDS[name](group) for name in ("point", "site", "row"))
    assert {0.0, 11.0}.isdisjoint(m[point.asked].tolist())
    assert len(numpy.unique(point.hidden)) == len(m)
    assert len(numpy.unique(site.hidden)) == len(gemm_table.SIZES) ** 2
    assert len(numpy.unique(row.hidden)) == len(gemm_table.ROWS_OF_M)
    frontier = FOLDS["frontier"](group)
    assert n[frontier.asked].min() > n[frontier.hidden == 0].max()


def test_hidden_rows_are_not_used(group):
    """Changing the hidden rows' own values changes no estimate."""
    fold = FOLDS["site"](group)
    asked = fold.asked[:1]
    own = fold.hidden == fold.hidden[asked[0]]
    before = validate.estimate_hidden(group, fold, asked)
    group.ratios[own] += 3.0
    after = validate.estimate_hidden(group, fold, asked)
    group.ratios[own] -= 3.0
    assert before.value == pytest.approx(after.value, abs=1e-12)


def test_the_command(table, capsys):
    """Text and JSON; a mistake is one line, status 2, and an error object."""
    data = str(table.parents[4])
    where = ["--data", data, "--system", "h200_sxm", "--backend", "toy"]
    assert validate.main([*where, "--table", "gemm", "--most", "50"]) == 0
    assert "all" in capsys.readouterr().out
    assert validate.main([*where, "--table", "gemm", "--most", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][-1]["rows"] == 50
    assert validate.main([*where, "--table", "softmax", "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["kind"] == "invalid_input"
    assert "gemm" in printed.err
    assert validate.main([*where, "--table", "embedding"]) == 1  # a kind without rows there
    assert validate.main(["--system", "h9000", "--backend", "toy", "--table", "gemm"]) == 2
    assert "h200_sxm" in capsys.readouterr().err


def test_models_are_of_their_features():
    """Every model loads with a length per feature; a kind without an entry gets plain ones over its coordinates."""
    for one in op_kinds().values():
        if not one.coordinates:
            continue
        for model in models_of(one):
            lengths = {len(part.lengths) for part in model.covariance.components}
            assert lengths == {len(model.features)}
            place = numpy.ones((1, len(one.coordinates)))
            assert features_of(place, model.features, one.coordinates).shape[1] in lengths
    assert models_of(kind("pointwise"))[0].features == kind("pointwise").coordinates


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--seed", "-3"], "seed"), (["--most", "0"], "most"), (["--fold", "leap"], "frontier")],
)
def test_a_number_or_fold_that_is_none_is_one_line(table, arguments, word, capsys):
    where = ["--data", str(table.parents[4]), "--system", "h200_sxm", "--backend", "toy"]
    assert validate.main([*where, "--table", "gemm", "--json", *arguments]) == 2
    printed = capsys.readouterr()
    assert word in json.loads(printed.out)["error"]["message"]
    assert len(printed.err.splitlines()) == 1
