"""Coverage and plans: S1 only where tables hold every point, and a plan that was measured makes it so."""

import importlib.util
import io
import json
from collections import defaultdict
from pathlib import Path

import numpy
import pytest
from rich.console import Console

from oplib.case import read_plan
from oplib.op import Op, kind
from oplib.oplist import OpList
from oplib.symbols import B, S
from perfdb import foreign
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system
from perfdb.table_file import Measurement, write_table
from perfdb.tables import read_table
from tests.perfdb import gemm_table
from tracer import cli, coverage
from tracer.report.coverage import render_coverage

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = str(ROOT / "examples" / "tiny-moe")
QWEN = ROOT.parent / "shared" / "model_configs" / "Qwen--Qwen3-8B"
TOY = ["--system", gemm_table.SYSTEM, "--backend", "toy"]


def gemm(name, n, k, **more):
    params = {"n": n, "k": k, "dtype": "bfloat16"}
    return Op(op="gemm", name=name, params=params, dims={"m": B * S}, **more)


def report(*ops, workload=(2, 64, 0), positions=256, cache="1000000000*b*p"):
    """A model of products alone; its cache lets a pass have some hundred tokens."""
    op_list = OpList(lowering="serving", phases={"context": ops, "generation": ops})
    return {
        "model": "made/up",
        "op_list": op_list.to_json(),
        "kv_cache": {"expression": cache},
        "max_positions": positions,
        "workload": dict(zip("bsp", workload, strict=True)),
        "unsupported": [],
    }


def check(folder, model):
    db = coverage.open_database(gemm_table.SYSTEM, "toy", data=folder)
    model["coverage"] = coverage.check(model, db)
    return coverage.situation(model)


def measure(folder, cases):
    """Rows for the cases, beside those that the table of each kind has already; a bit slower than their bound."""
    system, rows = load_system(gemm_table.SYSTEM), defaultdict(list)
    origin = {"framework": "Toy", "version": "1.0", "device": "H200", "kernel_source": "toy_kernel"}
    for case in cases:
        dims = {name: float(size) for name, size in case.dims.items()}
        latency = float(bound_ms(case.kind, case.params, dims, system)) * 1.5 + 0.005
        rows[case.op].append(
            Measurement(params=case.params, dims=case.dims, latency=latency, **origin)
        )
    for op, added in rows.items():
        stem = kind(op).table_format.stem
        path = next(
            folder.glob(f"**/{stem}.txt"),
            folder / gemm_table.SYSTEM / "toy" / "1.0" / f"{stem}.txt",
        )
        write_table(path, kind(op), [*(kept(path, op) if path.exists() else ()), *added])


def kept(path, op):
    table = read_table(path, kind(op))
    for i in range(len(table)):
        yield Measurement(
            params={p.name: plain(table.columns[p.name][i]) for p in kind(op).params},
            dims={name: int(table.columns[name][i]) for name in kind(op).dims},
            latency=float(table.latency[i]),
            **{name: column.decode()[i] for name, column in table.fingerprint.items()},
        )


def plain(value):
    return value.item() if isinstance(value, numpy.generic) else value


@pytest.fixture
def data(tmp_path):
    gemm_table.write(tmp_path)
    return tmp_path


def without(path, *, n, k):
    """The table without one site."""
    head, *rows = path.read_text().splitlines()
    names = head.split(",")
    at = [names.index(name) for name in ("n", "k")]
    left = [row for row in rows if [row.split(",")[i] for i in at] != [str(n), str(k)]]
    assert len(left) == len(rows) - len(gemm_table.ROWS_OF_M)
    path.write_text("\n".join([head, *left]) + "\n")


def test_a_model_within_the_tables_is_s1(data):
    """Sites of the table and one between them, at every m that the envelope reaches."""
    model = report(gemm("measured", 2048, 4096), gemm("between", 3000, 5000))
    assert check(data, model) == "S1"
    found = model["coverage"]
    assert found["missing"] == []
    assert found["unmeasured_kinds"] == []
    assert {row["name"]: row["coverage"] for row in found["ops"]} == {
        "measured": "exact",
        "between": "interpolable",
    }
    assert all(phase["measured_share"] == 1.0 for phase in found["phases"].values())
    assert coverage.plan(model).cases == ()


def test_what_leaves_the_table_is_named_with_its_nearest_row(data):
    """One op of two lies beyond in n: it alone is listed, at every m, once for both phases."""
    model = report(gemm("inside", 2048, 4096), gemm("wide", 9000, 4096))
    assert check(data, model) == "S2"
    missing = model["coverage"]["missing"]
    assert {point["params"]["n"] for point in missing} == {9000}
    assert {point["coverage"] for point in missing} == {"outside"}
    assert {point["reason"] for point in missing} == {"n 9000, measured 512 to 8192"}
    assert all("n=8192 k=4096" in point["nearest"] for point in missing)
    labels = {label for point in missing for label in point["needed_by"]}
    assert labels == {"context wide", "generation wide"}
    assert len({point["case_id"] for point in missing}) == len(missing)
    rows = {(row["phase"], row["name"]): row for row in model["coverage"]["ops"]}
    assert rows["context", "inside"]["coverage"] != "outside"
    assert rows["context", "wide"]["origin"] == "extrapolated"


def test_a_site_at_the_edge_that_is_removed_is_missed(data):
    """Without its last site a table ends before it; its op alone is named, and its points make it S1 again."""
    path = next(data.glob("**/gemm_perf.txt"))
    corner = report(gemm("corner", 8192, 8192), gemm("inside", 1024, 1024))
    assert check(data, corner) == "S1"
    for other in gemm_table.SIZES:
        without(path, n=8192, k=other)
    assert check(data, corner) == "S2"
    missing = corner["coverage"]["missing"]
    assert {label.split()[-1] for point in missing for label in point["needed_by"]} == {"corner"}
    assert all("n=6144 k=8192" in point["nearest"] for point in missing)
    measure(data, coverage.plan(corner).cases)
    assert check(data, corner) == "S1"
    assert {row["coverage"] for row in corner["coverage"]["ops"] if row["name"] == "corner"} == {
        "exact"
    }


def test_rows_that_contradict_each_other_cover_nothing_between_them(tmp_path):
    """Times that scatter by a factor of four enclose a shape and say nothing of it; its own rows do."""
    gemm_table.write(tmp_path, spread=1.4)
    model = report(gemm("between", 3000, 5000), gemm("measured", 2048, 4096))
    assert check(tmp_path, model) == "S2"
    missing = model["coverage"]["missing"]
    assert {point["params"]["n"] for point in missing} == {3000}
    assert {point["coverage"] for point in missing} == {"outside"}
    assert all("estimates between the rows are off by" in point["reason"] for point in missing)
    assert all("n=" in point["nearest"] for point in missing)
    measure(tmp_path, coverage.plan(model).cases)
    assert check(tmp_path, model) == "S1"


def test_other_parameters_have_no_rows(data):
    """A mode that the table lacks is missing, never answered by another; its plan measures that mode."""
    wide = Op(
        op="gemm",
        name="fp8",
        params={"n": 2048, "k": 4096, "dtype": "fp8"},
        dims={"m": B * S},
    )
    model = report(wide)
    assert check(data, model) == "S2"
    assert {point["coverage"] for point in model["coverage"]["missing"]} == {"missing"}
    assert "dtype bfloat16" in model["coverage"]["missing"][0]["nearest"]
    plan = coverage.plan(model)
    assert {case.params["dtype"] for case in plan.cases} == {"fp8"}
    measure(data, plan.cases)
    assert check(data, model) == "S1"


def test_layers_and_phases_share_their_cases(data):
    """An op of two layer kinds in both phases, once with a bias, which hardly changes the time."""
    plain_op = gemm("proj", 9000, 512, layer="model.layers.0")
    biased = Op(
        op="gemm",
        name="proj",
        params={"n": 9000, "k": 512, "dtype": "bfloat16", "bias": True},
        dims={"m": B * S},
        layer="model.layers.1",
    )
    model = report(plain_op, biased, workload=(128, 1, 0))
    check(data, model)
    single = report(plain_op, workload=(128, 1, 0))
    check(data, single)
    ids = [case.case_id for case in coverage.plan(model).cases]
    assert ids == [case.case_id for case in coverage.plan(single).cases]
    labels = {p["dims"]["m"]: set(p["needed_by"]) for p in model["coverage"]["missing"]}
    every = {f"{p} model.layers.{i} proj" for p in ("context", "generation") for i in (0, 1)}
    assert labels[128] == every
    bounds = [case.bound_ms for case in coverage.plan(model).cases]
    assert bounds == sorted(bounds, reverse=True)


def test_the_reports_own_workload_is_asked_too(data):
    """A workload beyond the envelope makes S2 of what is S1 without it."""
    assert check(data, report(gemm("proj", 2048, 4096))) == "S1"
    model = report(gemm("proj", 2048, 4096), workload=(100, 4096, 0))
    assert check(data, model) == "S2"
    assert [p["dims"] for p in model["coverage"]["missing"]] == [{"m": 409600}]


def test_what_no_memory_holds_is_in_no_plan(data):
    model = report(gemm("proj", 8192, 8192), workload=(2**20, 2**12, 0))
    assert check(data, model) == "S2"
    assert [point["fits"] for point in model["coverage"]["missing"]] == [False, True]
    plan = coverage.plan(model)
    assert [case.dims for case in plan.cases] == [{"m": 2**20}]
    assert all(case.bytes <= load_system("h200_sxm").memory_capacity.base for case in plan.cases)


def test_a_primitive_stays_s3(data):
    model = report(gemm("proj", 2048, 4096))
    model["unsupported"] = [{"primitive": "aten.cumsum"}]
    assert check(data, model) == "S3"


def test_an_unmeasured_kind_is_never_covered(data):
    """However small its share: its points are in the plan, and its share of the time is stated."""
    norm = Op(
        op="pointwise",
        name="norm",
        params={"functions": "mul", "dtype": "bfloat16"},
        dims={"read": 8 * B * S, "written": 8 * B * S},
    )
    model = report(gemm("proj", 8192, 8192), norm)
    assert check(data, model) == "S2"
    (found,) = model["coverage"]["unmeasured_kinds"]
    assert found["op"] == "pointwise"
    assert 0 < found["time_share"]["context"] < 1
    measured = model["coverage"]["phases"]["context"]["measured_share"]
    assert measured + found["time_share"]["context"] == pytest.approx(1)
    measure(data, coverage.plan(model).cases)
    assert check(data, model) == "S1"
    assert model["coverage"]["unmeasured_kinds"] == []


@pytest.mark.slow
def test_a_whole_model_becomes_s1_once_its_plan_is_measured(data, tmp_path, capsys):
    """From the command's plan to rows of every kind of a mixture with latent attention and a linear recurrence, through
    files alone, to S1 and an empty plan.
    """
    plan, page = tmp_path / "plan.jsonl", tmp_path / "page.html"
    ask = [EXAMPLE, *TOY, "--data", str(data), "--workload", "4,1024,0", "--fail-on", "S2"]
    assert cli.main([*ask, "--json", "--cases", str(plan)]) == 1
    first = json.loads(capsys.readouterr().out)
    assert first["situation"] == "S2"
    cases = read_plan(plan).cases
    assert len(cases) == len(first["coverage"]["missing"])
    assert {case.op for case in cases} > {"moe", "pointwise", "context_mla", "gated_delta_rule"}
    assert first["checklist"][0]["step"] == "collection"

    measure(data, cases)
    assert cli.main([*ask, "--cases", str(plan), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("S1  Every operation is known")
    assert "none to measure" in printed
    assert "100% of it is" in " ".join(printed.split())
    assert read_plan(plan).cases == ()
    assert "toy 1.0" in page.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backend", "nothing"], "toy"),
        ([*TOY, "--backend-version", "9.9"], "1.0"),
        (["--system", "h9000", "--backend", "toy"], "h200_sxm"),
        (["--system", "b200_sxm", "--backend", "toy"], "h200_sxm"),
        ([*TOY, "--data", "/no/such/folder"], "/no/such/folder"),
        ([*TOY, "--cases", "/no/such/folder/plan"], "/no/such/folder"),
        (["--cases", "plan"], "--backend"),
        (["--backend-version", "1.0"], "--backend"),
        (["--submodules", *TOY], "--backend"),
    ],
)
def test_what_is_not_there_is_one_line(data, options, said, capsys):
    """Before the model is traced: the path of the model is not even looked at."""
    more = [] if "--data" in options or "toy" not in options else ["--data", str(data)]
    more = ["--data", str(data)] if options[0] == "--backend" else more
    assert cli.main(["/no/such/model", *options, *more]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert said in printed.err


def test_without_the_package_the_tables_are_named_as_missing(monkeypatch, capsys):
    monkeypatch.setattr(foreign, "PACKAGE", "no_such_package")
    assert cli.main(["/no/such/model", "--backend", "trtllm"]) == 2
    printed = capsys.readouterr().err
    assert "aiconfigurator-core" in printed
    assert "--data" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_terminal_names_ops_reasons_and_rows(data, width):
    """Each op with its coverage and origin, what is missing with why and the nearest row, within the width."""
    model = report(
        gemm("model.layers.0.a_module_of_a_very_long_name.inside", 2048, 4096),
        gemm("wide", 9000, 4096),
        *(gemm(f"wide{i}", 9000 + i, 512) for i in range(20)),
    )
    check(data, model)
    stream = io.StringIO()
    render_coverage(model, Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    printed = " ".join(stream.getvalue().split())
    assert f"Coverage: {gemm_table.SYSTEM} toy 1.0" in printed
    assert "n 9000, measured 512 to 8192" in printed
    assert "n=8192 k=4096" in printed
    assert "more groups, see --json" in printed
    (wide, _) = (line.split() for line in lines if line.startswith("wide "))
    assert wide[1] == "outside"
    assert wide[-1] == "extrapolated"


def test_nothing_is_printed_where_no_table_was_asked():
    stream = io.StringIO()
    render_coverage({"coverage": {"checked": False, "missing": []}}, Console(file=stream))
    assert stream.getvalue() == ""


def test_a_table_faster_than_light_is_noted(data):
    """A tenth of every measured time: the op, or its rows, are wrong, and the report says which."""
    path = next(data.glob("**/gemm_perf.txt"))
    head, *rows = path.read_text().splitlines()
    cells = [row.rpartition(",") for row in rows]
    path.write_text("\n".join([head, *(f"{a},{float(z) / 100:.9f}" for a, _, z in cells)]) + "\n")
    model = report(gemm("proj", 2048, 4096))
    check(data, model)
    assert [note for note in model["coverage"]["notes"] if "speed of light" in note]


def test_a_corrupt_table_is_one_line(data, capsys):
    next(data.glob("**/gemm_perf.txt")).write_text("gemm_dtype,m\nbfloat16,1\n")
    assert cli.main([EXAMPLE, *TOY, "--data", str(data)]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert "gemm_perf.txt" in printed.err


@pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None or not QWEN.is_dir(),
    reason="needs the published tables and configs",
)
def test_a_published_model_on_published_tables(capsys):
    """Qwen3-8B on TensorRT-LLM: products are measured up to 32768 tokens and 65536 columns, attention on fresh prompts;
    pointwise work and embeddings never.
    """
    ask = [str(QWEN), "--backend", "trtllm", "--json", "--workload", "4,2048,0"]
    assert cli.main(ask) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["situation"] == "S2"
    rows = {(row["phase"], row["name"]): row for row in found["coverage"]["ops"]}
    assert rows["generation", "self_attn.qkv_proj"]["coverage"] == "exact"
    assert rows["context", "mlp.down_proj"]["coverage"] == "exact"
    assert rows["generation", "self_attn.attention"]["coverage"] == "interpolable"
    assert rows["context", "lm_head"]["coverage"] == "outside"
    assert "n 151936" in rows["context", "lm_head"]["reason"]
    fresh = rows["context", "self_attn.attention"]
    assert fresh["at_workload"] == "exact"
    assert "p 1024 to" in fresh["reason"]
    unmeasured = {one["op"]: one for one in found["coverage"]["unmeasured_kinds"]}
    assert unmeasured.keys() == {"embedding", "pointwise"}
    assert 0.03 < unmeasured["pointwise"]["time_share"]["context"] < 0.2
    assert found["coverage"]["phases"]["generation"]["measured_share"] > 0.7
