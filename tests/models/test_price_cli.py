"""`price-model` from its arguments to what it prints and writes."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from models.cli import main
from models.report import plots
from models.report.words import four_digits
from oplib.op import kind
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system

REPORT = Path(__file__).with_name("small_report.json")
RUN = [str(REPORT), "--batch", "4", "--isl", "256", "--osl", "17"]
FIELDS = {
    "schema": int, "model": str, "system": str, "backend": str, "version": str, "mode": str, "layout": dict,
    "workload": dict, "ttft_ms": float, "tpot_ms": float, "request_ms": float, "tokens_per_s_per_gpu": float,
    "uncertainty": float, "origin": str, "memory": dict, "ops": list,
}  # fmt: skip
OP_FIELDS = {"phase", "name", "op", "count", "ms", "energy", "origin", "uncertainty", "share"}


def run_json(capsys, *argv):
    assert main([*RUN, *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_schema(capsys):
    """The object that DESIGN fixes: names, types, and the ops with theirs."""
    found = run_json(capsys)
    assert {name: type(found[name]) for name in FIELDS} == FIELDS
    assert found["layout"] == {"tp": 1, "pp": 1, "ep": 1, "dp": 1}
    assert found["workload"] == {"batch": 4, "isl": 256, "osl": 17, "prefix": 0}
    assert {"weights", "kv_cache", "activations", "total", "capacity", "fits"} <= found[
        "memory"
    ].keys()
    assert all(op.keys() >= OP_FIELDS for op in found["ops"])


@pytest.mark.parametrize("layout", [[], ["--tp", "2"], ["--tp", "2", "--pp", "2"]])
@pytest.mark.parametrize("mode", ["sol", "SOL_FULL", "Empirical", "hybrid"])
def test_sums(capsys, layout, mode):
    """Ops add up to their phase, shares to one, phases to the request."""
    found = run_json(capsys, *layout, "--mode", mode)
    for phase, key in (("context", "ttft_ms"), ("generation", "tpot_ms")):
        ops = [op for op in found["ops"] if op["phase"] == phase]
        assert sum(op["ms"] for op in ops) == pytest.approx(found[key])
        assert sum(op["share"] for op in ops) == pytest.approx(1)
    request = found["ttft_ms"] + 16 * found["tpot_ms"]
    assert found["request_ms"] == pytest.approx(request)
    assert found["tokens_per_s_per_user"] == pytest.approx(1e3 / found["tpot_ms"])
    assert sum(found["origins"].values()) == pytest.approx(1)
    if mode != "sol":
        assert found["mode"] == mode.lower()
    if layout:
        assert any(op["op"] == "all_reduce" for op in found["ops"])
    else:
        rate = 4 * 17 / found["request_ms"] * 1e3
        assert found["tokens_per_s_per_gpu"] == pytest.approx(rate)


def test_no_op_beats_its_bound(capsys):
    """The roofline position of each op: at the speed of light every one reaches its bound, else less."""
    for mode, check in (("sol", lambda x: x == pytest.approx(1)), ("empirical", lambda x: x <= 1)):
        found = run_json(capsys, "--mode", mode, "--tp", "2")
        assert all(check(op["achieved"]) for op in found["ops"])
        for op in found["ops"]:
            assert op["bound"] in ("compute", "memory")
            assert op["bound_ms"] > 0


def test_a_sweep_is_a_list_of_runs(capsys):
    """Each entry is what a run of its own prints."""
    found = run_json(capsys, "--batch", "1,4", "--tp", "1,2", "--osl", "1,17")
    assert len(found) == 8
    places = [(r["layout"]["tp"], r["workload"]["batch"], r["workload"]["osl"]) for r in found]
    assert len(set(places)) == 8
    assert all(r["tpot_ms"] is None for r in found if r["workload"]["osl"] == 1)
    alone = run_json(capsys, "--tp", "2")
    same = found[places.index((2, 4, 17))]
    assert same["memory"] == alone["memory"]
    assert same["request_ms"] == pytest.approx(alone["request_ms"], rel=1e-12)
    assert [op["name"] for op in same["ops"]] == [op["name"] for op in alone["ops"]]


def test_a_sweep_leaves_out_layouts_that_do_not_divide(capsys):
    """Each is named with its reason; where none is left the first one's is the error."""
    assert main([*RUN, "--tp", "1,2,3", "--ep", "1,2", "--json"]) == 0
    out, err = capsys.readouterr()
    places = [(r["layout"]["tp"], r["layout"]["ep"]) for r in json.loads(out)]
    assert places == [(1, 1), (2, 1), (2, 2)]
    assert len(err.splitlines()) == 3
    assert re.search("tp 1 pp 1 ep 2 dp 1 is left out: ep 2 does not divide", err)
    assert main([*RUN, "--tp", "3,5", "--json"]) == 2
    assert "3 does not divide" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_versus(capsys):
    """Differences of the ops add up to that of the requests, and turn round with the runs."""
    there = run_json(capsys, "--versus", "tp=2,system=b200_sxm")
    assert there["versus"]["layout"]["tp"] == 2
    assert there["versus"]["system"] == "b200_sxm"
    total = sum(item["ms"] for item in there["differences"])
    assert total == pytest.approx(there["versus"]["request_ms"] - there["request_ms"])
    back = run_json(capsys, "--tp", "2", "--system", "b200_sxm", "--versus", "tp=1,system=h200_sxm")
    turned = {(d["phase"], d["name"]): -d["ms"] for d in back["differences"]}
    assert {(d["phase"], d["name"]): d["ms"] for d in there["differences"]} == pytest.approx(turned)


def test_outputs(capsys, tmp_path):
    """The files of one run: CSV with every op, a page that loads nothing, a timeline as long as the phases."""
    page, sheet, trace = (tmp_path / name for name in ("a.html", "a.csv", "a.json"))
    files = ["--html", str(page), "--csv", str(sheet), "--trace", str(trace)]
    found = run_json(capsys, *files, "--tp", "2", "--pp", "2")
    rows = read_rows(sheet)
    assert [float(row["ms"]) for row in rows] == [op["ms"] for op in found["ops"]]
    assert [row["phase"] for row in rows] == [op["phase"] for op in found["ops"]]
    head = sheet.read_text().splitlines()[0].split(",")
    assert len(set(head)) == len(head)
    check_page(page.read_text())
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"]
    for process, key in enumerate(("ttft_ms", "tpot_ms")):
        mine = [event for event in events if event["pid"] == process]
        assert sum(event["dur"] for event in mine) / 1e3 == pytest.approx(found[key])
        ends = [event["ts"] + event["dur"] for event in mine]
        assert [event["ts"] for event in mine[1:]] == pytest.approx(ends[:-1])
    layers = [e["args"]["layer"] for e in events if e["pid"] == 0 and e["args"]["layer"]]
    assert list(dict.fromkeys(layers)) == [f"model.layers.{i}" for i in range(4)]


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def check_page(text):
    """No address, no script, closed elements, and no number that is none."""
    assert not re.search(r"(src|href)\s*=|@import|url\(|<script|<link", text)
    assert "nan" not in re.findall(r'(?:x|y|cx|cy|width|height|points)="([^"]*)"', text)
    for name in ("svg", "table", "section", "tr", "td"):
        assert text.count(f"<{name} ") + text.count(f"<{name}>") == text.count(f"</{name}>")


@pytest.mark.parametrize("more", [["--batch", "1,2,64", "--tp", "1,2"], ["--versus", "tp=2"]])
def test_pages_and_sheets_of_several_runs(capsys, tmp_path, more):
    """A sweep and a comparison have a page, a row per run, and a text at 80 columns."""
    page, sheet = tmp_path / "a.html", tmp_path / "a.csv"
    assert main([*RUN, *more, "--html", str(page), "--csv", str(sheet)]) == 0
    check_page(page.read_text())
    assert len(read_rows(sheet)) == (6 if "--batch" in more else 2)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80


def test_bars_and_their_labels_stay_inside_the_picture():
    """Long names are whole, and the number beside the longest bar ends before the edge."""
    name = "mlp.shared_experts.down_proj.all_reduce"
    found = [
        {"phase": "generation", "name": name, "ms": ms, "first": 0.0, "second": 0.0}
        for ms in (-123.4, 123.4)
    ]
    picture = plots.changes(found)
    assert f">generation {name}</text>" in picture
    edge = float(re.search(r'viewBox="0 0 ([\d.]+)', picture)[1])
    texts = re.findall(r'<text x="([\d.]+)"[^>]*>([^<]*)</text>', picture)
    assert len(texts) == 4
    assert all(float(x) + 6 * len(words) <= edge for x, words in texts)
    bars = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', picture)]
    assert min(bars) >= 6 * len(f"generation {name}")


def test_large_rates_have_no_exponent():
    assert [four_digits(v) for v in (404.53, 9999.4, 10086.2)] == ["404.5", "9999", "10086"]


def test_text_of_a_run(capsys):
    """Totals, both phases and every op's name; 80 columns in a pipe."""
    assert main([*RUN, "--tp", "2"]) == 0
    shown = capsys.readouterr().out
    for word in ("TTFT", "TPOT", "tokens/s per GPU", "Layer kinds", "all_reduce", "lm_head"):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--system", "h900"], "h200_sxm"),
        (["--backend", "nobody"], "trtllm|not installed"),
        (["--version", "1.0"], "--backend"),
        (["--mode", "guess"], "hybrid"),
        (["--mode", "silicon"], "backend"),
        (["--tp", "3"], "3 does not divide"),
        (["--ep", "2"], "ep 2"),
        (["--pp", "9"], "pp 9"),
        (["--tp", "0"], "tp"),
        (["--batch", "0"], "batch is 0"),
        (["--isl", "-4"], "isl"),
        (["--osl", "2.5"], "osl"),
        (["--batch", ""], "batch"),
        (["--isl", "99999999999"], "isl"),
        (["--versus", "colour=red"], "colour"),
        (["--versus", "tp=many"], "tp"),
        (["--versus", ""], "empty"),
        (["--batch", "1,2", "--versus", "tp=2"], "sweep"),
        (["--batch", "1,2", "--trace", "t.json"], "sweep"),
        (["--html", "no/such/folder/x.html"], "no folder"),
        (["--data", "no/such/folder", "--backend", "trtllm"], "no folder"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_bad_arguments(capsys, argv, said):
    """One line that says what is allowed, exit 2, and the same as JSON where JSON was asked for."""
    assert main([*RUN, *argv, "--json"]) == 2
    out, err = capsys.readouterr()
    assert len(err.strip().splitlines()) == 1
    assert re.search(said, err)
    assert json.loads(out)["error"].keys() == {"kind", "message", "hint"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"op_list": 3, "schema": 1}', '{"schema": 1, "lowering": "serving", "phases": {}}',
     '{"schema": 1, "lowering": "serving", "phases": {"context": [{"op": "gemm"}]}}'],
)  # fmt: skip
def test_corrupt_op_lists(capsys, tmp_path, text):
    """A damaged file is named and refused before anything loads torch."""
    path = tmp_path / "ops.json"
    path.write_text(text)
    assert main([str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_saved_list_of_another_lowering(capsys):
    """Beside tables that measured other ops it is priced and said; asked for as another it is refused."""
    ours = ["--system", "h100_sxm", "--backend", "torch"]
    said = "trace-model --lowering torch"
    assert any(said in note for note in run_json(capsys, *ours)["notes"])
    assert not any(said in note for note in run_json(capsys, *ours, "--mode", "sol")["notes"])
    assert not any(said in note for note in run_json(capsys, "--lowering", "serving")["notes"])
    assert main([*RUN, *ours, "--lowering", "torch", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "lowering serving" in error["message"]
    assert said in error["hint"]


def test_lone_op_list(capsys, tmp_path):
    """An op list without its report is priced; what memory it takes beyond weights is unknown."""
    path = tmp_path / "ops.json"
    path.write_text(json.dumps(json.loads(REPORT.read_text())["op_list"]))
    assert main([str(path), "--json", "--batch", "4", "--isl", "256", "--osl", "17"]) == 0
    lone, whole = json.loads(capsys.readouterr().out), run_json(capsys)
    assert lone["request_ms"] == whole["request_ms"]
    assert lone["memory"]["weights"] == whole["memory"]["weights"]
    assert lone["memory"]["fits"] is None
    for more in ([], ["--batch", "1,2"], ["--versus", "batch=2"]):
        assert main([str(path), *more]) == 0


def test_missing_package(capsys, monkeypatch):
    """Without the package of tables a backend is misuse, and the error says what to install."""
    monkeypatch.setattr("perfdb.foreign.PACKAGE", "no_such_package")
    monkeypatch.setattr("perfdb.foreign.OWN_DATA", Path("no/such/folder"))
    assert main([*RUN, "--backend", "trtllm", "--json"]) == 2
    assert "pip install" in json.loads(capsys.readouterr().out)["error"]["hint"]


def write_gemms(folder, power):
    """A table of gemms with a column of power: all of them take twice their bound and 500 W."""
    system, gemm = load_system("h200_sxm"), kind("gemm")
    head = "framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency"
    lines = [head + ",power" * power]
    for n in (1024, 2048, 4096, 8192):
        params = gemm.complete({"n": n, "k": 1024, "dtype": "bfloat16"})
        for m in (1, 4, 16, 64, 256, 1024, 4096):
            time = 2 * bound_ms(gemm, params, {"m": m}, system) + 0.008
            row = f"Toy,1.0,H200,gemm,toy,bfloat16,{m},{n},1024,{time}"
            lines.append(row + ",500" * power)
    path = folder / "h200_sxm" / "gemm" / "toy" / "1.0" / "gemm_perf.txt"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")


def only_gemms(tmp_path):
    data = json.loads(REPORT.read_text())["op_list"]
    for phase, ops in data["phases"].items():
        data["phases"][phase] = [op for op in ops if op["params"].get("k") == 1024]
    path = tmp_path / "ops.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("power", [True, False])
def test_energy(capsys, tmp_path, power):
    """Where every op has it energy is power times time on every GPU; where none has it there is no sum."""
    write_gemms(tmp_path, power)
    where = ["--data", str(tmp_path), "--backend", "toy", "--mode", "silicon", "--json"]
    assert main([str(only_gemms(tmp_path)), *RUN[1:], *where]) == 0
    found = json.loads(capsys.readouterr().out)
    if not power:
        assert found["energy"] is found["joules_per_token"] is None
        return
    between = {"rel": 0.01}  # of rows that all have 500 W
    assert found["energy"] == pytest.approx(500 * found["request_ms"], **between)
    assert 0 < found["energy_uncertainty"] < 0.5
    joules = found["energy"] / 1e3 / (4 * 17)
    assert found["joules_per_token"] == pytest.approx(joules)
    assert found["phases"]["context"]["energy"] == pytest.approx(500 * found["ttft_ms"], **between)


def test_some_energy_is_a_partial_sum(capsys, tmp_path):
    """With energy of some ops alone the sum is null, and the part is named as one."""
    write_gemms(tmp_path, True)
    found = run_json(capsys, "--data", str(tmp_path), "--backend", "toy")
    assert found["energy"] is None
    phase = found["phases"]["context"]
    known = [op["energy"] for op in found["ops"] if op["phase"] == "context" and op["energy"]]
    assert phase["energy"] is None
    assert phase["energy_of_known_ops"] == pytest.approx(sum(known))
    assert any("pointwise" in note for note in found["notes"])
    steps = {"context": 1, "generation": found["workload"]["osl"] - 1}
    told = sum(steps[op["phase"]] * op["ms"] for op in found["ops"] if op["energy"])
    assert 0.05 < told / found["request_ms"] < 0.95
    assert main([*RUN, "--data", str(tmp_path), "--backend", "toy"]) == 0
    words = f"known for ops of {told / found['request_ms']:.0%} of the time: no sum"
    assert words in capsys.readouterr().out


def test_silicon_without_data(capsys, tmp_path):
    """Mode silicon stops with the ops that no table answers: exit 1, and no half-written answer."""
    write_gemms(tmp_path, False)
    where = ["--data", str(tmp_path), "--backend", "toy", "--mode", "silicon", "--json"]
    assert main([*RUN, *where]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "perf_data_not_available"
    assert re.search(r"ops have no data\..* And \d+ more", error["message"])


def test_a_group_beyond_the_links_is_said(capsys):
    """32 H200 are four servers; on a GB200 they are one domain."""
    said = "network between servers"
    layout = ["--tp", "2", "--dp", "8", "--pp", "2"]
    assert any(said in note for note in run_json(capsys, *layout)["notes"])
    assert not any(said in note for note in run_json(capsys, "--tp", "2")["notes"])
    assert not any(said in n for n in run_json(capsys, *layout, "--system", "gb200")["notes"])


def test_what_does_not_fit(capsys):
    """A cache beyond the GPU's memory is said, by how much, in every form."""
    found = run_json(capsys, "--batch", "4096", "--isl", "4096")
    memory = found["memory"]
    assert memory["fits"] is False
    over = (memory["total"] - memory["capacity"]) / 2**30
    assert memory["verdict"] == f"does not fit by {over:.1f} GiB"
    assert main([*RUN, "--batch", "1,4096", "--isl", "4096"]) == 0
    assert f"+{over:.1f} GiB!" in capsys.readouterr().out


def memory_lines(shown):
    return shown[shown.index("memory ") : shown.index("energy ")]


def test_memory_has_one_unit(capsys, tmp_path):
    """What a GPU holds is in GiB wherever people read it, and its parts add up to it."""
    page = tmp_path / "page.html"
    assert main([*RUN, "--batch", "512", "--isl", "4096", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    for text in (memory_lines(shown), page.read_text()):
        assert re.search(r"\d GiB", text.replace("\u00a0", " "))
        assert not re.search(r"\d\s[kMGT]B\b", text)
    total, _, *parts = (
        float(size) for size in re.findall(r"(\d+\.\d+)(?= GiB|,)", memory_lines(shown))
    )
    assert sum(parts) == pytest.approx(total, abs=0.1)


def test_chunks(capsys):
    """Passes of limited size: how many is said, their sum is TTFT, memory holds one of them, a sweep has them too."""
    whole = run_json(capsys)
    cut = run_json(capsys, "--chunk", "512")
    assert (whole["chunk"], whole["context_passes"]) == (None, 1)
    assert (cut["chunk"], cut["context_passes"]) == (512, 2)
    one = run_json(capsys, "--batch", "2")
    assert cut["ttft_ms"] == pytest.approx(2 * one["ttft_ms"])
    assert cut["tpot_ms"] == whole["tpot_ms"]
    assert cut["memory"]["activations"] <= whole["memory"]["activations"]
    flops = [sum(op["flops"] for op in r["ops"] if op["phase"] == "context") for r in (whole, cut)]
    assert flops[0] == pytest.approx(flops[1], rel=1e-12)
    swept = run_json(capsys, "--chunk", "512", "--batch", "1,4")
    assert [run["context_passes"] for run in swept] == [1, 2]
    assert swept[1]["ttft_ms"] == pytest.approx(cut["ttft_ms"], rel=1e-12)
    assert main([*RUN, "--chunk", "100"]) == 0
    assert "12 context passes of at most 100 tokens" in " ".join(capsys.readouterr().out.split())
    against = run_json(capsys, "--versus", "chunk=512")
    assert against["versus"]["ttft_ms"] == pytest.approx(cut["ttft_ms"])
    for wrong in ("-1", "1,2", "many"):
        assert main([*RUN, "--chunk", wrong]) == 2


def test_torch_is_not_loaded():
    """A saved report is priced, sharded and weighed without torch, sympy, rich or scipy."""
    heavy = {"torch", "transformers", "sympy", "rich", "scipy", "pandas", "pyarrow"}
    script = (
        "import sys, io, contextlib; from models.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()): main({[*RUN, '--json', '--tp', '2']!r})\n"
        f"print(sorted({heavy!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_measured_prices_load_little(tmp_path, monkeypatch):
    """Tables are read and rows estimated without what would take longer to load than a price takes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is kept from earlier runs
    argv = [*RUN, "--json", "--system", "h100_sxm", "--backend", "torch"]
    script = (
        "import sys, io, contextlib; from models.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()): main({argv!r})\n"
        "print(sorted({'scipy', 'pyarrow.compute', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
