"""Prices are compared op by op at the reference's repetitions, and causes follow from lists, prices and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from parity_bounds import bound_cause
from parity_evidence import Evidence
from parity_lists import Line
from parity_local import local_report, our_lines, reference_lines
from parity_pairs import Compared, Cost, Pair, compare_record
from parity_prices_page import render
from parity_reasons import FORMULA, View, reason
from parity_records import ONE_GPU, Layout, Price, Record, Workload, records, text_of_layout
from parity_sites import GRANULARITY, REFERENCE, UNEXPLAINED
from parity_tails import tails

from oplib.op import Op, kind
from perfdb.database import PerfDatabase
from perfdb.systems import load_system
from tests.perfdb import latent_ops

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
TP8: Layout = (("tp", 8), ("pp", 1), ("dp", 1), ("moe_tp", 1), ("moe_ep", 1))
SYSTEM = load_system("h200_sxm")


def our_gemm(n: int, *, count: int = 3, phase: str = "context") -> dict[str, Any]:
    """A GEMM of our op list, n x 64."""
    rows = "b*s" if phase == "context" else "b"
    return {
        "op": "gemm",
        "name": f"layer.{n}",
        "count": count,
        "params": {"n": n, "k": 64, "dtype": "bfloat16"},
        "dims": {"m": rows},
        "layer": "l.0",
        "where": ["l.0"],
    }


def their_gemm(n: int, *, count: int = 3, name: str = "context_gemm") -> dict[str, Any]:
    """The same of the reference's list."""
    return {
        "op": "GEMM",
        "name": name,
        "scale_factor": float(count),
        "params": {"n": n, "k": 64, "quant_mode": "bfloat16"},
    }


def report(*ops: dict[str, Any]) -> dict[str, Any]:
    """A report with these ops in its context pass."""
    phases = {"context": list(ops), "generation": []}
    return {"op_list": {"schema": 1, "lowering": "serving", "phases": phases}, "unsupported": []}


def entry(*ops: dict[str, Any]) -> dict[str, Any]:
    """An entry of the reference with these ops in its context list."""
    return {"context_ops": list(ops), "generation_ops": []}


def record(
    prices: dict[str, float], *, batch: int = 1, isl: int = 8, source: str = "silicon"
) -> Record:
    """A record with these prices in its context pass."""
    context = {name: Price(ms=ms, source=source, sol_ms=ms / 2) for name, ms in prices.items()}
    return Record(
        model="m",
        layout=ONE_GPU,
        workload=Workload(batch=batch, isl=isl, osl=2),
        quant={"kvcache": "bfloat16"},
        prices={
            "context": context,
            "generation": {"alone": Price(ms=1.0, source="empirical", sol_ms=1.0)},
        },
        ttft_ms=sum(prices.values()),
        tpot_ms=1.0,
        sol_ttft_ms=1.0,
        sol_tpot_ms=1.0,
    )


def latency(m: int, n: int) -> float:
    """What the table of the tests holds: an efficiency that grows with m."""
    return 0.01 + 1e-4 * m * n / (40 + m)


@pytest.fixture
def db(tmp_path: Path) -> PerfDatabase:
    """A database with GEMMs of n = 64 and 256, k = 64."""
    folder = tmp_path / "h200_sxm" / "family" / "engine" / "1"
    folder.mkdir(parents=True)
    rows = [f"x,1,gpu,gemm,k,bfloat16,{m},{n},64,{latency(m, n)}" for n in (64, 256) for m in SIZES]
    head = "framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency"
    (folder / "gemm_perf.txt").write_text("\n".join([head, *rows]) + "\n")
    return PerfDatabase.load(system="h200_sxm", backend="engine", version="1", data=tmp_path)


@pytest.fixture
def bounds() -> PerfDatabase:
    """The bounds of the same system."""
    return PerfDatabase.load(system="h200_sxm", mode="sol")


def compared(
    mine: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    of: Record,
    *,
    db: PerfDatabase,
    bounds: PerfDatabase,
) -> Compared:
    """Both lists, compared."""
    return compare_record(of, report(*mine), entry(*theirs), db=db, bounds=bounds)


def test_a_measured_row_costs_its_latency_as_often_as_the_reference_repeats_it(
    db: PerfDatabase, bounds: PerfDatabase
) -> None:
    theirs = 6 * latency(8, 64)
    found = compared(
        [our_gemm(64, count=3)],
        [their_gemm(64, count=6)],
        record({"context_gemm": theirs}),
        db=db,
        bounds=bounds,
    )
    (pair,) = found.pairs
    assert pair.ours == pytest.approx(theirs, rel=1e-12)
    assert (pair.origin, pair.repetitions, pair.silicon, pair.close) == ("measured", 6, True, True)
    assert found.ttft_ms == pytest.approx(theirs / 2, rel=1e-12)


def test_two_sites_of_one_block_are_one_pair_and_streams_run_side_by_side(
    db: PerfDatabase, bounds: PerfDatabase
) -> None:
    children = {
        "group_a": [their_gemm(64, name="a")],
        "group_b": [their_gemm(256, name="b")],
    }
    block = {"op": "OverlapOp", "name": "both", "scale_factor": None, "params": {}}
    block["children"] = children
    found = compared(
        [our_gemm(64), our_gemm(256)], [block], record({"both": 1.0}), db=db, bounds=bounds
    )
    (pair,) = found.pairs
    parts = 3 * latency(8, 64), 3 * latency(8, 256)
    assert pair.ours == pytest.approx(max(parts), rel=1e-12)
    assert pair.summed == pytest.approx(sum(parts), rel=1e-12)
    assert pair.block
    assert reason(pair, View(db=db, others=[found])).side == GRANULARITY


def test_what_one_list_has_alone_is_listed_and_not_compared(
    db: PerfDatabase, bounds: PerfDatabase
) -> None:
    found = compared(
        [our_gemm(64)],
        [their_gemm(256, name="other")],
        record({"other": 1.0}),
        db=db,
        bounds=bounds,
    )
    assert not found.pairs
    assert [cost.line.name for cost in found.only_ours] == ["layer.64"]
    assert found.only_theirs == [("context", "other", 1.0), ("generation", "alone", 1.0)]


def one_pair(db: PerfDatabase, bounds: PerfDatabase, ms: float, **of: Any) -> tuple[Pair, View]:
    """The GEMM of n = 64 with this price of the reference, and what rules look at."""
    found = compared(
        [our_gemm(64)],
        [their_gemm(64)],
        record({"context_gemm": ms}, **of),
        db=db,
        bounds=bounds,
    )
    return found.pairs[0], View(db=db, others=[found])


def test_a_difference_at_a_measured_row_stays_unexplained(
    db: PerfDatabase, bounds: PerfDatabase
) -> None:
    pair, view = one_pair(db, bounds, 6 * latency(8, 64))
    assert reason(pair, view).side == UNEXPLAINED


def test_past_the_last_row_a_way_is_named_only_where_it_gives_the_number_again(
    db: PerfDatabase, bounds: PerfDatabase
) -> None:
    op, dims = Op.from_json(our_gemm(64)), {"m": 1024.0}
    evidence = Evidence(op, dims, db)
    tail = evidence.tail()
    assert tail is not None
    assert tail.last == 128
    right = 3 * evidence.bound / sorted(tail.efficiencies)[1]
    pair, view = one_pair(db, bounds, right, isl=1024)
    assert "theirs holds their median" in reason(pair, view).text
    steady = 3 * tail.each_ns[-1] * 1024 * 1e-6
    pair, view = one_pair(db, bounds, steady, isl=1024)
    assert "theirs holds the time per m of that row" in reason(pair, view).text
    pair, view = one_pair(db, bounds, right * 1.01, isl=1024)
    assert "theirs holds their median" not in reason(pair, view).text
    assert reason(pair, view).side == UNEXPLAINED


def test_a_price_below_the_speed_of_light_is_the_reference_s_error(
    db: PerfDatabase, bounds: PerfDatabase
) -> None:
    pair, view = one_pair(db, bounds, 1e-9)
    cause = reason(pair, view)
    assert cause.side == REFERENCE
    assert "below the speed of light" in cause.text


def test_a_formula_is_no_measurement(db: PerfDatabase, bounds: PerfDatabase) -> None:
    pair, view = one_pair(db, bounds, 6 * latency(8, 64), source="empirical")
    assert not pair.silicon
    assert reason(pair, view).side == FORMULA


def test_neighbours_bracket_a_place_without_a_row(db: PerfDatabase) -> None:
    evidence = Evidence(Op.from_json(our_gemm(64)), {"m": 24.0}, db)
    prices = evidence.around()
    assert evidence.row is None
    assert min(prices) < latency(24, 64) < max(prices)
    assert Evidence(Op.from_json(our_gemm(64)), {"m": 16.0}, db).row == latency(16, 64)


def constant_pairs(db: PerfDatabase, extras: dict[int, float]) -> list[Compared]:
    """One op at several lengths; the reference adds `extras` ms to each measured row, by length."""
    found = []
    for isl, extra in extras.items():
        of = record({"context_gemm": 3 * (latency(isl, 64) + extra)}, isl=isl, source="mixed")
        bounds = PerfDatabase.load(system="h200_sxm", mode="sol")
        found.append(compared([our_gemm(64)], [their_gemm(64)], of, db=db, bounds=bounds))
    return found


def test_a_constant_is_named_where_it_is_the_same_at_every_length(db: PerfDatabase) -> None:
    same = constant_pairs(db, {8: 0.013, 128: 0.013})
    cause = reason(same[0].pairs[0], View(db=db, others=same))
    assert cause.side == REFERENCE
    assert "13.0 us per layer" in cause.text
    grows = constant_pairs(db, {8: 0.013, 128: 0.208})
    assert reason(grows[0].pairs[0], View(db=db, others=grows)).side == UNEXPLAINED


def test_steps_stand_for_all_steps_of_a_generation() -> None:
    workload = Workload(batch=1, isl=100, osl=128)
    assert workload.steps == [100, 132, 164, 196]
    assert workload.weights == [32, 32, 32, 31]
    assert sum(Workload(batch=1, isl=9, osl=2).weights) == 1


def test_records_join_both_modes_and_keep_failures() -> None:
    ops = [{"name": "a", "ms": 2.0, "source": "silicon"}]
    phase = {"total_ms": 2.0, "tpot_ms": 2.0, "ops": ops}
    common = {
        "model": "m",
        "parallel": dict(TP8),
        "batch": 1,
        "isl": 8,
        "osl": 2,
        "quant": {},
        "status": "ok",
        "context": phase,
        "generation": phase,
        "decode_first_step": phase,
    }
    both = [{**common, "mode": "SILICON"}, {**common, "mode": "SOL"}]
    (one,) = records({"records": both})
    assert one.prices["context"]["a"] == Price(ms=2.0, source="silicon", sol_ms=2.0)
    assert text_of_layout(one.layout) == "tp 8"
    both[0] = {**both[0], "status": "error", "error": "no row\nmore"}
    assert records({"records": both})[0].failure == "no row"


def test_a_sum_over_ranks_is_the_same_line_on_both_sides() -> None:
    ours_one = {
        "op": "all_reduce",
        "name": "x",
        "count": 4,
        "params": {"num_gpus": 8},
        "dims": {"bytes": "8192*b*s"},
        "layer": "",
        "where": ["x"],
    }
    theirs_one = {
        "op": "CustomAllReduce",
        "name": "context_ar",
        "scale_factor": 4.0,
        "params": {"hidden_size": 4096, "tp_size": 8},
    }
    (mine,) = our_lines(report(ours_one))
    (theirs,) = reference_lines(entry(theirs_one))
    assert mine.key == theirs.key
    alone = {**theirs_one, "params": {"hidden_size": 4096, "tp_size": 1}}
    assert reference_lines(entry(alone)) == []


def test_one_gpu_keeps_the_list() -> None:
    whole = report(our_gemm(64))
    here = local_report(whole, ONE_GPU)["op_list"]["phases"]["context"]
    assert [(op["params"]["n"], op["dims"]["m"]) for op in here] == [(64, "b*s")]


def bound_pair(ours: float, theirs: float, *, gpus: int = 8) -> Pair:
    """A sum over ranks with these bounds."""
    op = Op(op="all_reduce", name="x", params={"num_gpus": gpus}, dims={"bytes": 1024})
    line = Line(phase="context", kind="all_reduce", shape=(("gpus", gpus),), count=1, name="x")
    cost = Cost(
        line=line,
        op=op,
        ms=1.0,
        mean_ms=1.0,
        sol_ms=ours,
        origin="measured",
        uncertainty=0.0,
    )
    return Pair(
        record=record({}),
        phase="context",
        label="all_reduce",
        costs=(cost,),
        lines=(line,),
        ours=1.0,
        theirs=1.0,
        sol_ours=ours,
        sol_theirs=theirs,
        summed=1.0,
        repetitions=1,
        source="silicon",
    )


@pytest.mark.parametrize(("gpus", "moves"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_a_ring_is_named_where_its_moves_are_the_difference(gpus: int, moves: float) -> None:
    found = bound_cause(bound_pair(1.0, moves, gpus=gpus), SYSTEM)
    assert "round a ring" in found
    assert bound_cause(bound_pair(1.0, moves * 1.1, gpus=gpus), SYSTEM) == UNEXPLAINED


def test_tails_tell_the_two_ways_apart(db: PerfDatabase) -> None:
    (one,) = tails(db, ("gemm",))
    assert (one.name, one.lanes) == ("gemm bfloat16", 2)
    assert one.nearest[0] < one.median[0]
    assert one.steady[0] > 0


def test_the_page_has_every_part(db: PerfDatabase, bounds: PerfDatabase) -> None:
    ms = 6 * latency(8, 64)
    found = compared(
        [our_gemm(64)], [their_gemm(64)], record({"context_gemm": ms}), db=db, bounds=bounds
    )
    failed = Compared(record=record({}), failure="it does not divide")
    text = render("tools 1", [[found], [failed]], db, list(tails(db, ("gemm",))))
    assert "unexplained 1." in text
    assert "| context | gemm (n 64, k 64) | 3 | measured | silicon |" in text
    assert "- m, one GPU, 1 workloads: it does not divide" in text


REFERENCE_DATA = next(
    (
        folder / "reference"
        for root in (Path(__file__).resolve().parents[2],)
        for folder in (root / "shared", root.parent / "shared")
        if (folder / "reference" / "op_prices.json").exists()
    ),
    None,
)


@pytest.mark.skipif(REFERENCE_DATA is None, reason="the reference data is not here")
def test_our_price_at_a_row_that_the_reference_looked_up_is_its_price() -> None:
    """Of its own GEMMs at measured sizes, however our lists are made."""
    pytest.importorskip("aiconfigurator_core")
    assert REFERENCE_DATA is not None
    db = PerfDatabase.load(system="h200_sxm", backend="trtllm", version="1.3.0rc20")
    lists = json.loads((REFERENCE_DATA / "op_lists.json").read_text())["entries"]
    prices = json.loads((REFERENCE_DATA / "op_prices.json").read_text())
    (dense,) = (e for e in lists if "Llama-3.1-8B" in e["model"] and e["parallel"]["tp"] == 1)
    off = []
    for one in records(prices):
        if one.model != dense["model"] or one.layout != ONE_GPU:
            continue
        for op in dense["generation_ops"]:
            if op["op"] == "GEMM":
                p = op["params"]
                params = {"n": p["n"], "k": p["k"], "dtype": p["quant_mode"]}
                ours = Op(op="gemm", name="x", params=params, dims={"m": one.workload.batch})
                result = ours.query(db)
                theirs = one.prices["generation"][op["name"]].ms / op["scale_factor"]
                if result.origin == "measured":
                    off.append(float(result) / theirs - 1)
    assert len(off) >= 8
    assert numpy.abs(off).max() < 1e-5


def test_a_module_that_a_table_has_is_priced_whole(tmp_path: Path, bounds: PerfDatabase) -> None:
    """Its parts add up to its row, and what is outside keeps its price; without the table each has its own."""
    latent_ops.write_modules(tmp_path)
    whole = PerfDatabase.load(system="h200_sxm", backend="toy", data=tmp_path)
    latent_ops.write_modules(tmp_path / "other", hidden_size=512)
    apart = PerfDatabase.load(system="h200_sxm", backend="toy", data=tmp_path / "other")
    ops = [op.to_json() for op in latent_ops.layer("context")]
    of = record({"context_gemm": 1.0}, batch=4, isl=256)
    measured, plain = (compared(ops, [], of, db=db, bounds=bounds) for db in (whole, apart))
    inside = {c.op.name: c for c in measured.only_ours if c.whole}
    assert set(inside) == {op.name for op in latent_ops.module_ops("context")}
    one = kind("context_mla_module")
    row = whole.price(one, one.complete(latent_ops.PARAMS), {"b": 4, "s": 256, "p": 0})
    assert row.origin == "measured"
    assert sum(c.ms for c in inside.values()) == pytest.approx(2 * float(row))
    beside = {c.op.name: c.ms for c in measured.only_ours if not c.whole}
    before = {c.op.name: c.ms for c in plain.only_ours}
    assert not any(c.whole for c in plain.only_ours)
    assert beside == {name: before[name] for name in beside}
