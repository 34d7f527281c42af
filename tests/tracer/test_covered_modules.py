"""Coverage where a table has whole modules: their parts are asked for nothing there, and for everything elsewhere."""

import io

import pytest
from rich.console import Console

from tests.perfdb.latent_ops import SYSTEM, module_ops, op_list, write_modules
from tracer import coverage
from tracer.report.coverage import render_coverage

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")


def checked(folder, *, source="", positions=1024, workload=(4, 256, 0)):
    """A report of one layer, asked of the tables in `folder`."""
    report = {
        "model": "made/up",
        "op_list": op_list(source=source).to_json(),
        "kv_cache": {"expression": "100000000*b*p"},  # a pass of some thousand tokens
        "max_positions": positions,
        "workload": dict(zip("bsp", workload, strict=True)),
        "unsupported": [],
    }
    db = coverage.open_database(SYSTEM, "toy", data=folder)
    report["coverage"] = coverage.check(report, db)
    return report


def inside(rows):
    return [row for row in rows if row["name"].startswith("self_attn")]


@pytest.mark.parametrize("source", ["", "indexer", "shared"])
def test_parts_of_a_module_that_a_table_has_are_covered(tmp_path, source):
    """Every workload answered: no point of a part is missing, and the plan asks for what is around alone."""
    write_modules(tmp_path, source=source)
    report = checked(tmp_path, source=source)
    found = report["coverage"]
    for row in inside(found["ops"]):
        assert row["covers"] == "all"
        assert row["module"] == f"{row['phase']}_{'dsa' if source else 'mla'}_module"
        assert row["coverage"] in ("exact", "interpolable")
    needed = {label for point in found["missing"] for label in point["needed_by"]}
    assert needed
    assert not any("self_attn" in label for label in needed)
    assert not any(
        "self_attn" in label for case in coverage.plan(report).cases for label in case.needed_by
    )
    assert {one["op"] for one in found["unmeasured_kinds"]} == {"pointwise", "gemm"}
    assert {one["answered"] for one in found["modules"]} == {
        one["workloads"] for one in found["modules"]
    }


def test_the_price_counts_a_module_once(tmp_path):
    """A phase takes what the module and the ops around it take; its share of measured time says so."""
    write_modules(tmp_path)
    found = checked(tmp_path)["coverage"]
    for phase, total in found["phases"].items():
        (module,) = [one for one in found["modules"] if one["phase"] == phase]
        around = [r for r in found["ops"] if r["phase"] == phase and not r["stands"]]
        assert {row["name"] for row in around} == {"input_layernorm", "mlp.gate"}
        expected = 2 * module["ms"] + sum(row["ms"] * row["count"] for row in around)
        assert total["ms"] == pytest.approx(expected)
        assert total["measured_share"] == pytest.approx(2 * module["ms"] / expected)
        assert module["parts"] == [op.name for op in module_ops(phase)]


def test_beyond_the_rows_the_parts_are_asked(tmp_path):
    """Prompts longer than the table's: their parts are missing there, and only there."""
    write_modules(tmp_path)
    report = checked(tmp_path, positions=8192, workload=(1, 4096, 0))
    context = [
        m for m in report["coverage"]["missing"] if any("context" in n for n in m["needed_by"])
    ]
    attention = [m["dims"] for m in context if m["op"] == "context_mla"]
    assert attention
    assert all(dims["s"] > 1024 or dims["p"] > 1023 for dims in attention)
    (module,) = [one for one in report["coverage"]["modules"] if one["phase"] == "context"]
    assert not module["stands"]
    assert 0 < module["answered"] < module["workloads"]
    assert coverage.situation(report) == "S2"


def test_without_a_table_of_the_module_nothing_changes(tmp_path):
    """Other sizes than the table's: every part is asked as if there were no modules."""
    write_modules(tmp_path, hidden_size=512)
    found = checked(tmp_path)["coverage"]
    assert not found["modules"]
    assert {row["covers"] for row in found["ops"]} == {"none"}
    assert all(row["coverage"] == "missing" for row in inside(found["ops"]))


def test_the_terminal_names_them(tmp_path):
    """A part that needs no rows is said to be in a module, and a note says which."""
    write_modules(tmp_path)
    console = Console(width=150, file=io.StringIO())
    render_coverage(checked(tmp_path), console)
    text = console.file.getvalue()
    assert text.count("in module") == len(module_ops("context")) + len(module_ops("generation"))
    assert "context_mla_module stands for the" in text
