"""The command that checks tables."""

import json

import pytest

from perfdb.check import main
from tests.perfdb import gemm_table

pytest.importorskip("pyarrow")


@pytest.fixture
def where(tmp_path):
    """Arguments for a folder with one table of products and one that no op takes."""
    path = gemm_table.write(tmp_path)
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    lines[1] = ",".join([*cells[:-1], "-1.0"])
    path.write_text("\n".join(lines) + "\n")
    path.with_name("some_module_perf.txt").write_text("kernel_source,latency\nx,1.0\n")
    return ["--data", str(tmp_path), "--system", "h200_sxm", "--backend", "toy"]


def test_text_and_json(where, capsys):
    """Findings are an answer: status 0. A row that no op takes is counted."""
    assert main(where) == 0
    text = capsys.readouterr().out
    assert "not_positive: 1 rows (1)" in text
    assert "no op takes 1 of 1 rows" in text
    assert main([*where, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (table,) = report["tables"]
    assert table["op"] == "gemm"
    bad = [one for one in table["findings"] if one["check"] == "not_positive"]
    assert bad[0]["rows"] == [1]
    assert table["doubtful"] >= 1
    assert report["unclaimed"][0]["unclaimed"] == 1


def test_rows_below_the_bound_are_explained(where, tmp_path, capsys):
    """What the op's docstring knows of its rows is printed beside such a finding, and only then."""
    assert main([*where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["known"] == ""
    path = next(tmp_path.glob("**/gemm_perf.txt"))
    path.write_text(path.read_text().replace("-1.0", "0.000000001"))
    assert main(where) == 0
    assert "  known: Of estimates between rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["--table", "conv3d"], 2, "invalid_input"),
        (["--table", "moe"], 1, "perf_data_not_available"),
        (["--backend", "other"], 2, "unknown_backend"),
        (["--version", "9"], 2, "unknown_version"),
        (["--system", "h900"], 2, "unknown_system"),
        (["--seed", "3"], 2, "invalid_input"),
    ],
)
def test_mistakes(where, arguments, status, error, capsys):
    """One line, a status, and an error object."""
    assert main([*where, *arguments, "--json"]) == status
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["kind"] == error
    assert len(printed.err.splitlines()) == 1
