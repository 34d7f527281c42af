"""`collect-ops` without a GPU: lists, dry runs, grids, and a run over CPU tensors up to the table."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

from collector import cli
from collector.export import export
from collector.grids import (
    LAP,
    LOAD_MS,
    MOST_TOKENS,
    expected_seconds,
    fits,
    grid_cases,
    in_laps,
    shapes,
    spread_out,
    window_share,
    work_ms,
)
from collector.log import Segment
from collector.repeat import compare, sampled
from oplib.case import Case
from oplib.registry import kind
from perfdb.systems import load_system
from perfdb.tables import read_table
from tests.collector.running import collect, gemm, write_plan

SYSTEM = load_system("h200_sxm")


@pytest.mark.parametrize("op", ["gemm", "context_attention", "moe", "mamba2", "pointwise"])
def test_grids_keep_to_the_guard_rails(op: str) -> None:
    """Every case fits, none is there twice, and the models at hand are covered."""
    cases = grid_cases(op, "h200_sxm")
    assert len(cases) > 100
    assert len({case.case_id for case in cases}) == len(cases)
    assert all(fits(case, SYSTEM) for case in cases)
    assert all(case.dims.get("b", 1) * case.dims.get("s", 1) <= MOST_TOKENS for case in cases)
    assert all(expected_seconds(case, SYSTEM) > 0 for case in cases)


def test_dtypes_and_models_choose() -> None:
    fp8 = grid_cases("gemm", "h200_sxm", dtypes=("fp8",))
    assert {case.params["dtype"] for case in fp8} == {"fp8"}
    some = grid_cases("gemm", "h200_sxm", models=("Qwen3-8B",))
    assert 0 < len(some) < len(grid_cases("gemm", "h200_sxm"))
    assert all(kind(op) for op in shapes())


def test_the_order_covers_all_early() -> None:
    """The first tenth of the cases has sizes of every third of the grid."""
    cases = spread_out(grid_cases("gemm", "h200_sxm"))
    sizes = sorted(case.dims["m"] for case in cases[: len(cases) // 10])
    assert sizes[0] <= 8
    assert sizes[-1] >= 4096


def test_a_group_of_gpus_is_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--ops", "all_reduce", "--device", "0,1", "--list"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {case["params"]["num_gpus"] for case in listed} == {2}
    assert {1 << 10, 1 << 30} <= {case["dims"]["bytes"] for case in listed}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x"], "Nothing to measure is named"),
        (["--ops", "fft", "--dry-run", "--out", "x"], "Unknown op kind 'fft'"),
        (["--ops", "gemm", "--variant", "eager", "--list"], "takes slot=name"),
        (["--examples", "--device", "cpu"], "Give --out DIR"),
        (["--verify", "--out", "nowhere"], "holds no log"),
        (["--what", "speed"], "invalid choice"),
    ],
)
def test_misuse_is_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line on stderr, and the error object where JSON was asked for."""
    assert cli.main([*arguments, "--json"]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert json.loads(said.out)["error"]["kind"]


def test_a_dry_run_needs_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--ops", "gemm", "--models", "Qwen3-8B", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cases"] > 0
    assert told["seconds"] > 0


def test_neighbours_in_a_lap_are_of_one_weight() -> None:
    """Work at peak grows along the first lap, falls along the second, by kind and dtype behind those too light for the
    clock. Nothing is lost, and windows hold what fits."""
    products = grid_cases("gemm", "h200_sxm", dtypes=("bfloat16", "fp8"))
    cases = spread_out(products + grid_cases("context_mla", "h200_sxm"))
    found = in_laps(cases, SYSTEM)
    assert sorted(c.case_id for c in found) == sorted(c.case_id for c in cases)
    for lap in (found[:LAP], found[LAP : 2 * LAP][::-1]):
        light = sum(work_ms(case, SYSTEM) < LOAD_MS for case in lap)
        assert 0 < light < LAP
        alike = itertools.groupby(lap[light:], key=lambda case: (case.op, case.params["dtype"]))
        heavy = {those: [work_ms(case, SYSTEM) for case in same] for those, same in alike}
        assert list(heavy) == sorted(heavy)
        assert len(heavy) == 3
        assert all(work == sorted(work) for work in heavy.values())
        assert sum(map(len, heavy.values())) == LAP - light
    shares = [window_share(case, SYSTEM) for case in cases]
    assert 0 < min(shares) < 1 / 16
    assert max(shares) <= 1


def test_a_cpu_is_expected_to_take_longer() -> None:
    """What is expected of a core is not what the system's bound says."""
    large = gemm(4096, 4096, 4096)
    assert expected_seconds(large, SYSTEM, cpu=True) > 100 * expected_seconds(large, SYSTEM)
    assert window_share(large, SYSTEM, cpu=True) == 1.0


def test_kernels_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--kernels", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "sdpa_cudnn" in text
    assert "no: needs cuda, this is cpu" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_run_on_the_cpu_becomes_a_table(tmp_path: Path) -> None:
    """Cases in, log, summary, table that the database reads; limits and the dry run state the count first."""
    cases = [gemm(m) for m in (1, 2, 5, 8)]
    plan = write_plan(tmp_path / "plan.jsonl", cases)
    out, data = tmp_path / "log", tmp_path / "data"
    status, printed, said = collect(
        out, "--cases", str(plan), "--limit", "3", "--export", str(data)
    )
    assert (status, printed["rows"], printed["ok"]) == (0, 3, 3)
    assert said.startswith("3 cases to measure, 0 have a row; about")
    status, printed, _ = collect(out, "--cases", str(plan), "--resume")
    assert (status, printed["rows"]) == (0, 1)
    written = export([out], data)
    assert len(sampled([out], 3, seed=1).cases) == 3
    assert [(one.path.name, one.rows) for one in written] == [("gemm_perf.txt", 4)]
    table = read_table(data / "gemm_perf.txt", kind("gemm"))
    assert sorted(table.dims["m"].tolist()) == [1, 2, 5, 8]
    assert (table.latency > 0).all()


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Deviations by case, the worst first; only what both timed with one kernel counts, in logs and in tables."""
    for name, factor in (("a", 1.0), ("b", 1.04)):
        segment = Segment(tmp_path / name)
        for i in range(5):
            latency = (i + 1) * (factor if i else 1.5 * factor - 0.5)
            segment.append(
                {"what": "time", "variant": f"v{name}" if i == 4 else "v", "case_id": str(i), "op": "gemm",
                 "params": {"bias": False}, "dims": {"m": i}, "status": "ok", "timing": {"latency": latency},
                 "date": str(i)}
            )  # fmt: skip
        segment.close()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/gemm_perf.txt").write_text(
        "op_name,kernel_source,m,bias,latency,case_id\n"
        + "".join(f"gemm,v,{i},False,{i + 1}.0,{i}\n" for i in range(5))
    )
    for first in ("a", "tables"):
        found = compare(tmp_path / first, tmp_path / "b")
        assert found["cases"] == found["ops"]["gemm"]["cases"] == 4
        assert found["median_deviation"] == found["bias"] == pytest.approx(0.04)
        assert found["within_10_percent"] == 1.0
        assert found["worst"][0]["deviation"] == pytest.approx(0.06)
        assert cli.main(["--out", str(tmp_path / "b"), "--compare", str(tmp_path / first)]) == 0
        assert "+6.0% of 1 ms  gemm=v" in capsys.readouterr().out
    assert compare(tmp_path / "b", tmp_path / "a")["bias"] == pytest.approx(1 / 1.04 - 1)
    assert cli.main(["--out", str(tmp_path / "b"), "--compare", str(tmp_path / "none")]) == 2
    for text, word in (
        ("m,latency\n1,2\n", "lacks op_name, kernel_source, case_id"),
        (
            "op_name,kernel_source,m,latency,case_id\ngemm,v,1,fast,0\n",
            "latency of gemm 0 is 'fast'",
        ),
        ("op_name,kernel_source,m,latency,case_id\ngemm,v,1\n", "is None"),
    ):
        (tmp_path / "tables/gemm_perf.txt").write_text(text)
        assert cli.main(["--out", str(tmp_path / "b"), "--compare", str(tmp_path / "tables")]) == 2
        assert word in capsys.readouterr().err


def test_a_dtype_that_is_asked_for_replaces_that_of_every_shape() -> None:
    cases = grid_cases("gemm", "h200_sxm", dtypes=iter(["fp8"]))
    assert {case.params["dtype"] for case in cases} == {"fp8"}
    assert len({(case.params["n"], case.params["k"]) for case in cases}) > 100


def test_load_of_another_kind_does_not_count() -> None:
    """A clock belongs to what the device ran: after cases of another kind a window gets all of its load."""
    from collector.worker import Options, Task, Worker

    worker = Worker(Options(device="cpu", seconds=0.01))
    table = {"num_embeddings": 32, "embedding_dim": 16, "dtype": "float32", "tied": False}
    other = Case(op="embedding", params=table, dims={"m": 4})
    for case, loaded_at in ((gemm(4), -math.inf), (gemm(8), 5.0), (other, -math.inf), (other, 5.0)):
        assert worker.answer(Task(case=case, variant="")).row["status"] == "ok"
        assert worker.bench.loaded_at == loaded_at
        worker.bench.loaded_at = 5.0


def test_a_task_by_itself_has_one_row() -> None:
    """A worker in this process: a time, a check, and a case that no variant takes."""
    from collector.worker import Options, Task, Worker

    worker = Worker(Options(device="cpu", seconds=0.01))
    timed = worker.answer(Task(case=gemm(4), variant="eager")).row
    assert (timed["status"], timed["variant"]) == ("ok", "eager")
    assert timed["timing"]["latency"] > 0
    assert worker.answer(Task(case=gemm(4), variant="eager", what="check")).row["status"] == "ok"
    assert worker.answer(Task(case=gemm(4), variant="trtllm")).row["status"] == "skipped"
