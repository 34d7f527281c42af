"""The terminal report and the HTML page, on a made-up model that has everything they show."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from oplib.wording import short_params
from tracer.report.html import SCRIPTS, page_file, render_html
from tracer.report.terminal import render_terminal
from tracer.report.view import index_ranges, phase_workload, verdict

ROOT = Path(__file__).parents[2]
FIXTURE = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("report_fixture.py"))))
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="runs the page's scripts, which needs node")


@pytest.fixture(scope="module")
def built():
    return FIXTURE.build_report()


@pytest.fixture
def report(built):
    return copy.deepcopy(built)


def terminal_text(report, width=80, encoding="utf-8"):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    render_terminal(report, Console(file=stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def run_node(scripts, driver):
    """What the last lines of JavaScript print, as JSON."""
    source = "\n".join([*(page_file(name) for name in scripts), driver])
    done = subprocess.run([NODE, "-"], input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Terminal


@pytest.mark.parametrize("width", [80, 120, 200])
def test_terminal_lines_fit_the_width(report, width):
    """A line longer than the terminal would be wrapped by it in the middle of a column."""
    assert max(len(line) for line in terminal_text(report, width).splitlines()) <= width


def test_terminal_order_verdict_first_checklist_last(report):
    lines = terminal_text(report).splitlines()
    assert lines[0].startswith("S3  3 primitives are unknown")
    titles = [
        "Layers",
        "Context:",
        "Generation:",
        "Unsupported",
        "Conservation:",
        "KV",
        "Checklist",
    ]
    found = [i for i, line in enumerate(lines) if line.startswith(tuple(titles))]
    assert [lines[i].split()[0] for i in found] == [title.split()[0] for title in titles]


def test_terminal_in_a_pipe_has_no_control_codes(report):
    assert "\x1b" not in terminal_text(report)


def test_terminal_survives_an_ascii_stream(report):
    """Nothing but what the encoding has, and no exception."""
    report["notes"].append("shape b\N{MULTIPLICATION SIGN}s")
    assert terminal_text(report, encoding="ascii").isascii()


def test_terminal_op_rows_keep_their_columns_at_80(report):
    """Every op of both phases is on one line that ends with its bound."""
    lines = [line.rstrip() for line in terminal_text(report).splitlines()]
    rows = [line for line in lines if re.search(r" x\d+ +[\d.]+% .*(compute|memory)$", line)]
    assert len(rows) == sum(len(ops) for ops in report["op_list"]["phases"].values())


def test_terminal_names_what_an_engineer_needs_of_a_primitive(report):
    text = terminal_text(report)
    item = report["unsupported"][0]
    for part in (item["primitive"], item["source"], item["line_text"], item["nearest"], "x58"):
        assert part in text


def test_terminal_text_is_not_markup(report):
    """Square brackets in notes and source lines are text, not styles."""
    report["notes"] = ["index [0] of [bold]x[/bold]"]
    assert "index [0] of [bold]x[/bold]" in terminal_text(report)


def test_terminal_without_prices_shows_dashes(report):
    report["sol"] = {phase: [None] * len(ops) for phase, ops in report["op_list"]["phases"].items()}
    assert "speed of light" not in terminal_text(report)


def test_terminal_says_what_conservation_misses(report):
    report["conservation"]["exact"] = False
    report["conservation"]["weights"]["ops"] -= 1000
    text = terminal_text(report)
    assert "NOT exact" in text
    assert "missing 1,000" in text


def test_flops_the_counter_does_not_know_are_no_loss(report):
    """ops = counter + uncounted balances."""
    report["conservation"]["flops"] = {"counter": 100, "ops": 130, "uncounted": 30}
    assert "FLOPs: exact, 100; 30 more in ops the counter does not know" in terminal_text(report)


# Words


@pytest.mark.parametrize(
    ("indices", "text"),
    [([0, 1, 2], "0-2"), ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8"), ([4], "4"), ([], "")],
)
def test_index_ranges(indices, text):
    assert index_ranges(indices) == text


def test_short_params_drops_defaults_and_ends_with_the_dtype():
    params = {"n": 8, "k": 4, "dtype": "bfloat16", "bias": False, "tied": True, "window": 0}
    assert short_params(params) == "n8 k4 tied bf16"


def test_one_workload_serves_both_phases():
    """Generation decodes what context left."""
    report = {"workload": {"b": 2, "s": 100, "p": 10}}
    assert phase_workload(report, "context") == {"b": 2, "s": 100, "p": 10}
    assert phase_workload(report, "generation") == {"b": 2, "s": 1, "p": 110}


@pytest.mark.parametrize("situation", ["S1", "S2", "S1-or-S2"])
def test_verdict_of_a_known_model(situation):
    report = FIXTURE.build_report(situation)
    assert verdict(report).startswith("Every operation is known")
    assert "Unsupported" not in terminal_text(report)
    assert situation in render_html(report)


# Page


def test_page_loads_nothing(report):
    """No address but the name of the SVG standard, no element or rule that fetches."""
    page = render_html(report)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\bsrc\s*=|<link\b|@import|url\((?!#)|\bfetch\(|XMLHttpRequest", page)
    assert "eval(" not in page
    assert "new Function" not in page
    assert "innerHTML" not in page


def test_page_is_small(report):
    assert sum(len(graph["nodes"]) for graph in report["graphs"]) > 1400
    assert len(render_html(report).encode()) < 1_000_000


def test_page_data_cannot_leave_its_element(report):
    """Text of a model's files neither ends the script nor fills a slot of the template."""
    report["unsupported"][0]["line_text"] = (
        "</script><script>alert(1)</script><!-- {{style}} \u2028"
    )
    report["model"] = "{{data}}<b>"
    report["conservation"]["flops"]["uncounted"] = float("nan")
    page = render_html(report)
    assert page.count("</script>") == page.count("<script") == 2
    assert "<title>{{data}}&lt;b&gt;: S3</title>" in page
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["unsupported"][0]["line_text"] == report["unsupported"][0]["line_text"]
    assert data["op_list"] == report["op_list"]


def test_page_holds_every_script_of_its_folder():
    found = {path.name for path in (ROOT / "tracer/report/page").glob("*.js")}
    assert found == set(SCRIPTS)


def test_report_loads_without_torch():
    code = (
        "import sys, tracer.report.html, tracer.report.terminal; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


EXPRESSIONS = [
    "b*s",
    "2*b*s*4096*6144",
    "-b**2 + 3*s",
    "2**-1*b",
    "b - s - p",
    "b/s/2",
    "-2**2*b",
    "2**3**2 + b",
    "256*(1 - (31/32)**(b*s))*44040192 + b*s*28672",
    "b*s*Min(s + p, 4096) + Max(b, s, p)",
    "floor(s/100 + 99/100) + ceiling(p/3)",
    "ceiling(b*s/128)*128 - floor(-s/7)",
    "Mod(s, 64) + Mod(-p, 5)",
    "s//64 + p % 7",
    "b*(p*s + s*(s + 1)/2)",
    "Piecewise((s, s < 128), (128*p, (p > 5) & (b >= 2)), (b, True))",
    "Piecewise((p, Eq(p, 0) | (s <= 1)), (s*p, True))",
    "1.5e3*b + .5*s",
    7,
]
POINTS = [
    {"b": b, "s": s, "p": p}
    for b, s, p in [
        (1, 4096, 0),
        (64, 1, 4096),
        (3, 127, 50),
        (2, 100, 7),
        (1, 1, 0),
        (5, 200, 131),
    ]
]


def python_value(expression, point):
    """The same text with Python's own grammar and exact fractions."""

    def piecewise(*cases):
        return next(value for value, condition in cases if condition)

    functions = {"Min": min, "Max": max, "floor": math.floor, "ceiling": math.ceil}
    functions |= {"Mod": lambda x, y: x % y, "Eq": lambda x, y: x == y, "Piecewise": piecewise}
    text = re.sub(r"(?<![\w.])(\d*\.?\d+(?:e\d+)?)(?![\w.])", r"F('\1')", str(expression))
    names = {axis: Fraction(value) for axis, value in point.items()}
    return float(eval(text, {"__builtins__": {}, "F": Fraction}, functions | names))


@needs_node
def test_expressions_agree_with_python():
    driver = (
        f"const values = {json.dumps(EXPRESSIONS)}.map((text) => "
        f"{json.dumps(POINTS)}.map((point) => compileExpression(text)(point)));"
        "console.log(JSON.stringify(values));"
    )
    for expression, values in zip(EXPRESSIONS, run_node(["expressions.js"], driver), strict=True):
        expected = [python_value(expression, point) for point in POINTS]
        assert values == pytest.approx(expected, rel=1e-12), expression


@needs_node
@pytest.mark.parametrize(
    "text", ["x + 1", "b +", "alert(1)", "b s", "(b", "b)", "b.c", "b[0]", "constructor", "'b'", ""]
)
def test_expressions_refuse_everything_else(text):
    driver = (
        f"let refused = false; try {{ compileExpression({json.dumps(text)}); }} "
        "catch { refused = true; } console.log(refused);"
    )
    assert run_node(["expressions.js"], driver) is True


@needs_node
def test_page_prices_equal_the_report(report):
    """The speed of light that the page computes from the rates is the one in the report."""
    page = render_html(report)
    data = re.search(r'id="report-data">(.*?)</script>', page, re.DOTALL)[1]
    stub = f"const document = {{ getElementById: () => ({{ textContent: {json.dumps(data)} }}) }};"
    driver = (
        "console.log(JSON.stringify(Object.fromEntries(PHASES.map((phase) => "
        "[phase, prices(phase).records.map((record) => [record.ms, record.bound])]))));"
    )
    source = [stub, page_file("expressions.js"), page_file("model.js"), driver]
    for phase, records in run_node([], "\n".join(source)).items():
        expected = report["sol"][phase]
        assert [ms for ms, _ in records] == pytest.approx([price["ms"] for price in expected])
        assert [bound for _, bound in records] == [price["bound"] for price in expected]


def draw(graph, show_free):
    """The collapsed graph and its layout, with boxes of one size."""
    driver = f"""
      const view = collapseGraph({json.dumps(graph)}, {json.dumps(show_free)});
      const nodes = view.boxes.map((box) => ({{ id: box.id, w: 200, h: 40 }}));
      const {{ place, routes }} = layoutGraph(nodes, view.edges);
      console.log(JSON.stringify({{ ...view, place: [...place], routes: routes.length }}));
    """
    return run_node(["layout.js", "collapse.js"], driver)


@needs_node
@pytest.mark.parametrize("show_free", [False, True])
def test_graph_boxes_do_not_overlap_and_edges_go_down(report, show_free):
    for graph in report["graphs"]:
        drawn = draw(graph, show_free)
        place = {name: (spot["x"], spot["y"]) for name, spot in drawn["place"]}
        assert drawn["routes"] == len(drawn["edges"])
        assert all(place[a][1] + 40 <= place[z][1] for a, z in drawn["edges"])
        spots = sorted(place.values(), key=lambda spot: (spot[1], spot[0]))
        for i, (x, y) in enumerate(spots):
            for other_x, other_y in spots[i + 1 :]:
                assert abs(x - other_x) >= 199.9 or abs(y - other_y) >= 39.9


@needs_node
def test_graph_places_every_shown_node_once(report):
    for graph in report["graphs"]:
        shown = [i for i, node in enumerate(graph["nodes"]) if node["group"] != "free"]
        boxes = draw(graph, show_free=False)["boxes"]
        assert sorted(i for box in boxes for i in box["nodes"]) == shown
        owners = [box["op"] for box in boxes if box["kind"] == "op"]
        assert len(owners) == len(set(owners))


def made_graph(owners, edges):
    """Nodes n0, n1, ... of the given ops; None is a free node."""
    nodes = [
        {"n": f"n{i}", "t": "aten.x", "group": "free" if op is None else "op", "g": op}
        for i, op in enumerate(owners)
    ]
    return {"nodes": nodes, "edges": edges}


@needs_node
def test_graph_sees_through_free_nodes():
    """n0 -> free -> free -> n3 is an edge between the ops; lengths carry none."""
    graph = made_graph([0, None, None, 1, None, 2], [[0, 1], [1, 2], [2, 3], [0, 4], [4, 5]])
    graph["nodes"][4]["t"] = "aten.sym_size"
    assert draw(graph, show_free=False)["edges"] == [["op0", "op1"]]


@needs_node
def test_graph_splits_an_op_that_would_close_a_cycle():
    """op 0 before and after op 1 becomes two boxes; edges may name nodes."""
    drawn = draw(made_graph([0, 1, 0], [["n0", "n1"], ["n1", "n2"]]), show_free=False)
    assert [box["op"] for box in drawn["boxes"]] == [0, 1, 0]
    assert len(drawn["edges"]) == 2
