"""Modules in the place of their parts: where the tables have them, never beside them."""

import json

import numpy
import pytest

from models.cli import main
from models.pricing import price
from models.workload import Workload
from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from perfdb.database import PerfDatabase
from tests.perfdb.latent_ops import SYSTEM, op_list, write_modules

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

INSIDE = Workload(batch=4, isl=256, osl=33)
OUTSIDE = Workload(batch=4, isl=8192, osl=33)
SOURCES = pytest.mark.parametrize("source", ["", "indexer", "shared"])


def database(folder, mode="hybrid", **changes):
    write_modules(folder, **changes)
    return PerfDatabase.load(system=SYSTEM, backend="toy", mode=mode, data=folder)


def names(phase):
    return [one.op.op for one in phase.ops if one.at(0)]


@SOURCES
def test_a_module_takes_the_place_of_its_parts(tmp_path, source):
    """Where a row has it: the module once, what is outside it as before, and both prices side by side."""
    db = database(tmp_path, source=source)
    found = price([op_list(source=source)], db, INSIDE).stages[0]
    plain = price([op_list(source=source)], db, INSIDE, modules="never").stages[0]
    for phase, parts in ((found.context, plain.context), (found.generation, plain.generation)):
        (one,) = phase.modules
        assert one.at(0)
        assert names(phase) == ["pointwise", one.module.op.op, "gemm"]
        rest = [p for p in parts.ops if p.op.name in ("input_layernorm", "mlp.gate")]
        beside = sum(float(p.ms.latency[0]) for p in rest)
        assert float(phase.total.latency[0]) == pytest.approx(
            float(one.module.ms.latency[0]) + beside
        )
        assert float(one.parts_ms.latency[0]) == pytest.approx(
            float(parts.total.latency[0]) - beside
        )
    assert found.context.modules[0].module.ms.origin[0] == "measured"


def test_the_price_is_that_of_the_row(tmp_path):
    """A measured place: 1.5 bounds and 50 us of the module, twice."""
    db = database(tmp_path)
    (one,) = price([op_list()], db, INSIDE).stages[0].context.modules
    op = one.module.op
    bound = float(db.sides(op.kind, op.params, {"b": 4, "s": 256, "p": 0})[0])
    assert float(one.module.ms.latency[0]) == pytest.approx(2 * (1.5 * bound + 0.05), rel=1e-9)


def test_latents_that_are_given_stay_an_op(tmp_path):
    """A table without the projection into the latents: that projection is priced beside the module."""
    db = database(tmp_path, latents="given")
    phase = price([op_list()], db, INSIDE).stages[0].context
    assert names(phase) == ["pointwise", "gemm", "context_mla_module", "gemm"]
    assert [one.op.name for one in phase.ops][1] == "self_attn.q_a_proj"


def test_each_workload_has_the_one_or_the_other(tmp_path):
    """An array of workloads, inside the rows and beyond them, is what each of them is alone."""
    db = database(tmp_path)
    lengths = numpy.array([64, 200, 256, 1024, 8192])
    both = price([op_list()], db, Workload(batch=4, isl=lengths, osl=17))
    for i, length in enumerate(lengths):
        alone = price([op_list()], db, Workload(batch=4, isl=int(length), osl=17))
        for name in ("ttft", "tpot"):
            one, other = getattr(both, name)[i], getattr(alone, name)[0]
            assert float(one) == pytest.approx(float(other), rel=1e-12)
            assert one.origin == other.origin
    (module,) = both.stages[0].context.modules
    place = both.stages[0].context.place
    assert [module.at(place[i]) for i in range(len(lengths))] == [True] * 4 + [False]


def test_beyond_the_rows_the_parts_count(tmp_path):
    """As without modules, and the reason is said."""
    db = database(tmp_path)
    found, plain = (price([op_list()], db, OUTSIDE, modules=way) for way in ("auto", "never"))
    assert float(found.request[0]) == float(plain.request[0])
    assert "do not reach" in found.stages[0].context.modules[0].module.reason


@pytest.mark.parametrize(
    ("batch", "length", "there"),
    [(16, 64, True), (3, 200, True), (16, 1024, False), (9, 900, False)],
)
def test_a_corner_without_rows_is_beyond_them(tmp_path, batch, length, there):
    """Rows stop at 1,024 new tokens in all: each size of 16 x 1024 was measured, and nothing as large in both."""
    db = database(tmp_path, most=1024)
    found = price([op_list()], db, Workload(batch=batch, isl=length, osl=1)).stages[0].context
    assert found.modules[0].at(0) is there
    assert found.modules[0].module.ms.origin[0] == (
        "extrapolated" if not there else "measured" if batch == 16 else "interpolated"
    )


def test_other_sizes_are_another_module(tmp_path):
    """No row of 8 heads says anything of 4; neither does one in fp8."""
    for i, changes in enumerate(({"hidden_size": 512}, {"dtype": "fp8_block"})):
        db = database(tmp_path / str(i), **changes)
        found = price([op_list()], db, INSIDE).stages[0].context
        assert not found.modules[0].at(0)
        assert "no row" in found.modules[0].module.reason


def test_silicon_needs_no_rows_of_parts(tmp_path):
    """The attention has a row as a module; of what is outside nothing was measured, which alone is missing."""
    db = database(tmp_path, mode="silicon", source="indexer")
    with pytest.raises(PerfDataNotAvailableError, match=r"^2 ops have no data") as error:
        price([op_list(source="indexer")], db, Workload(batch=4, isl=256, osl=9))
    assert "self_attn" not in str(error.value)
    with pytest.raises(PerfDataNotAvailableError, match="self_attn"):
        price([op_list(source="indexer")], db, INSIDE, modules="never")


def test_always_and_never(tmp_path):
    """At the speed of light a module is the sum of its parts' bounds, pointwise work left out; a wrong word is told."""
    db = PerfDatabase.load(system=SYSTEM, mode="sol")
    whole = price([op_list()], db, INSIDE, modules="always").stages[0].generation
    plain = price([op_list()], db, INSIDE).stages[0].generation
    assert not plain.modules
    named = {p.op.name: float(p.ms.latency[0]) for p in plain.ops}
    inside = [ms for name, ms in named.items() if name.startswith("self_attn")]
    expected = sum(inside) - named["self_attn.q_a_layernorm"]
    assert float(whole.modules[0].module.ms.latency[0]) == pytest.approx(expected, rel=1e-6)
    far = price([op_list()], database(tmp_path), OUTSIDE, modules="always").stages[0].context
    assert far.modules[0].at(0)
    assert far.modules[0].module.ms.origin[0] == "extrapolated"
    with pytest.raises(InvalidInputError, match="auto, never, always"):
        price([op_list()], db, INSIDE, modules="perhaps")


def test_the_report_says_which(tmp_path, capsys):
    """`modules` has both prices; the op list has the module and not its parts, or its parts alone."""
    write_modules(tmp_path)
    file = tmp_path / "ops.json"
    file.write_text(json.dumps(op_list().to_json()), encoding="utf-8")
    run = [str(file), "--system", SYSTEM, "--backend", "toy", "--data", str(tmp_path), "--json"]
    reports = {}
    for way in ("auto", "never"):
        assert main([*run, "--batch", "4", "--isl", "256", "--osl", "33", "--modules", way]) == 0
        reports[way] = json.loads(capsys.readouterr().out)
    auto, never = reports["auto"], reports["never"]
    assert not never["modules"]
    context, generation = auto["modules"]
    assert (context["phase"], generation["phase"]) == ("context", "generation")
    for one in (context, generation):
        ops = [op for op in auto["ops"] if op["phase"] == one["phase"]]
        (row,) = [op for op in ops if op["op"] == one["op"]]
        assert (row["ms"], row["origin"]) == (one["ms"], one["origin"])
        assert not {op["name"] for op in ops} & set(one["parts"])
        apart = [op for op in never["ops"] if op["phase"] == one["phase"]]
        parts = sum(op["ms"] for op in apart if op["name"] in one["parts"])
        assert one["parts_ms"] == pytest.approx(parts)
        assert any(f"priced as {one['op']}, not as its parts" in note for note in auto["notes"])
        assert sum(op["share"] for op in ops) == pytest.approx(1)


def test_text_and_page_have_both_prices(tmp_path, capsys):
    """A line of a single run; a sweep says each choice once, however many runs there are."""
    write_modules(tmp_path)
    file = tmp_path / "ops.json"
    file.write_text(json.dumps(op_list().to_json()), encoding="utf-8")
    run = [str(file), "--system", SYSTEM, "--backend", "toy", "--data", str(tmp_path)]
    page = tmp_path / "page.html"
    assert main([*run, "--batch", "4", "--isl", "256", "--osl", "33", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    for text in (shown, page.read_text(encoding="utf-8")):
        assert "context: context_mla_module" in text
        assert "the module counted" in text
    assert main([*run, "--batch", "1,2,4,8", "--isl", "128,256", "--osl", "33"]) == 0
    swept = " ".join(capsys.readouterr().out.split())
    assert swept.count("priced as context_mla_module") == 1
