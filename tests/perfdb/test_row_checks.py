"""Row checks: a sound table passes, and each kind of bad row is found by its number and by no other check."""

import dataclasses
from pathlib import Path

import numpy
import pytest

import perfdb
from oplib.op import kind
from perfdb.efficiency import LAUNCH_MS, bounds_of
from perfdb.row_checks import CHECKS, HARMLESS, NOISY, check_rows
from perfdb.row_choice import rows_that_count
from perfdb.systems import load_system
from perfdb.table_columns import read_columns
from perfdb.tables import read_table
from tests.perfdb import gemm_table

pytest.importorskip("pyarrow")

OWN = Path(perfdb.__file__).parent / "data"
H200 = load_system("h200_sxm")


@pytest.fixture
def table(tmp_path):
    """Every product at 1.5 times its bound and launch."""
    read = read_table(gemm_table.write(tmp_path), kind("gemm"))
    return dataclasses.replace(read, latency=1.5 * (bounds_of(read, H200) + LAUNCH_MS))


def changed(table, places, factor):
    """The table with the times at `places` multiplied."""
    latency = table.latency.copy()
    latency[places] *= factor
    return dataclasses.replace(table, latency=latency)


def found(table, others=()):
    """{check: places of its rows}, of the checks that found any."""
    checked = check_rows(table, H200, others)
    places = {name: numpy.flatnonzero(mark).tolist() for name, mark in checked.marks.items()}
    return {name: rows for name, rows in places.items() if rows}


def test_a_sound_table_has_no_findings(table):
    """Nor has it beside tables of other backends that are a little faster or slower."""
    others = [changed(table, slice(None), factor) for factor in (0.5, 3.0)]
    assert found(table) == {}
    assert found(table, others) == {}
    assert not check_rows(table, H200).doubtful.any()


def test_faster_than_light(table):
    """A row at nine tenths of its bound, where the bound is large against a launch."""
    place = int(numpy.argmax(bounds_of(table, H200)))
    factor = 0.9 * bounds_of(table, H200)[place] / table.latency[place]
    rows = found(changed(table, place, factor))
    assert rows["below_speed_of_light"] == [place]


@pytest.mark.parametrize("factor", [0.0, -1.0, numpy.nan, numpy.inf])
def test_no_positive_time(table, factor):
    with numpy.errstate(all="ignore"):
        rows = found(changed(table, 100, factor))
    assert rows["not_positive"] == [100]


def test_slower_than_a_larger_size(table):
    """The row of m = 64 at twice its time is slower than that of m = 96, 128 and more."""
    m = table.dims["m"]
    place = int(numpy.flatnonzero(m == 64)[0])
    assert found(changed(table, place, 2.0)) == {"falls": [place]}


def test_a_stated_spread_excuses_a_fall(table):
    place = int(numpy.flatnonzero(table.dims["m"] == 64)[0])
    wide = dataclasses.replace(changed(table, place, 1.5), spread=numpy.full(len(table), 1.0))
    assert "falls" not in found(wide)


def test_samples_that_disagree(table):
    """Above the limit, and not at it; a row that states no spread is not blamed. The widest row is named."""
    spread = numpy.zeros(len(table))
    spread[[5, 6, 7, 8]] = NOISY, 0.31, 1.0, numpy.nan
    noisy = dataclasses.replace(table, spread=spread)
    assert found(noisy) == {"samples_disagree": [6, 7]}
    checked = check_rows(noisy, H200)
    assert numpy.flatnonzero(checked.doubtful).tolist() == [6, 7]
    assert any("3.3 times as wide" in finding.reason for finding in checked.findings)


def test_our_rows_agree_with_themselves():
    """No table of ours holds a row whose samples disagree."""
    paths = sorted(OWN.glob("*/*/*/*.txt"))
    assert paths
    for path in paths:
        spread = read_columns(path).numbers("spread")
        assert not (spread > NOISY).any(), path


def test_far_from_its_neighbours(table):
    place = int(numpy.flatnonzero(table.dims["m"] == 64)[3])
    rows = found(changed(table, place, 20.0))
    assert rows["far_from_neighbours"] == [place]


def test_far_from_other_backends(table):
    """The known case: one backend is right, another never under 100 us; a third tells them apart."""
    slow = dataclasses.replace(table, latency=numpy.maximum(table.latency, 0.1))
    other = changed(table, slice(None), 0.9)
    rows = found(slow, [table, other])
    assert rows["slower_than_other_backends"] == numpy.flatnonzero(table.latency < 0.01).tolist()
    assert rows["floor_above_other_backends"] == numpy.flatnonzero(slow.latency < 0.2).tolist()
    assert found(table, [slow, other]) == {}


def test_with_one_other_backend_only_the_slower_is_doubtful(table):
    slow = changed(table, slice(None), 30.0)
    rows = found(table, [slow])
    assert rows == {"faster_than_other_backends": list(range(len(table)))}
    assert not check_rows(table, H200, [slow]).doubtful.any()
    assert check_rows(slow, H200, [table]).doubtful.all()


def test_a_row_that_is_no_op(table):
    """An unknown dtype is found and kept."""
    dtype = table.params["dtype"].each(lambda _: "posit8")
    odd = dataclasses.replace(table, params={**table.params, "dtype": dtype})
    assert found(odd)["no_op"] == list(range(len(table)))


def test_several_rows_of_one_key(table):
    """Repetitions of one kernel: the median counts. Of two kernels the faster one, and never a mean of both."""
    kernels = table.fingerprint["kernel_source"]
    twice = numpy.repeat(numpy.arange(3), [1, 3, 2])
    rows = changed(table.take(twice), [1, 2, 3], numpy.array([1.0, 3.0, 2.0]))
    second = dataclasses.replace(
        kernels.take(twice),
        values=numpy.array(["a", "b"], dtype=object),
        codes=numpy.array([0, 0, 0, 0, 0, 1], dtype=numpy.int32),
    )
    rows = dataclasses.replace(rows, fingerprint={**rows.fingerprint, "kernel_source": second})
    rows = changed(rows, [4, 5], numpy.array([6.0, 3.0]))
    assert rows_that_count(rows).tolist() == [0, 3, 5]
    assert found(rows) == {"repeated": [1, 2, 3], "several_kernels": [4, 5]}
    assert not check_rows(rows, H200).doubtful.any()


def test_findings_name_rows_of_the_file(table):
    """Counted from 1, grouped by the parameters that are no coordinates, with the worst row in words."""
    place = int(numpy.flatnonzero(table.dims["m"] == 64)[0])
    (finding,) = check_rows(changed(table, place, 2.0), H200).findings
    assert finding.check == "falls"
    assert finding.rows == (place + 1,)
    assert finding.group["dtype"] == "bfloat16"
    assert f"row {place + 1}" in finding.reason


def test_what_is_harmless_is_a_check():
    assert set(HARMLESS) < set(CHECKS)
