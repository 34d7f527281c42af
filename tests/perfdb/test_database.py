"""PerfDatabase: five modes, exact at measured rows, never a silent fall back."""

import json
import re

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from oplib.op import Op, kind, op_kinds
from oplib.symbols import B, P, S
from perfdb.database import PerfDatabase
from perfdb.empirical import efficiency_of
from perfdb.performance import PerformanceResult
from perfdb.speed_of_light import sides_ms
from perfdb.systems import load_system
from perfdb.table_file import Measurement, write_table
from perfdb.tables import read_table
from tests.perfdb import gemm_table

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")


def gemm(*, n=2048, k=4096, dtype="bfloat16", count=1) -> Op:
    params = {"n": n, "k": k, "dtype": dtype}
    return Op(op="gemm", name="proj", count=count, params=params, dims={"m": B * S})


ATTENTION = Op(
    op="generation_attention",
    name="attention",
    params={
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "v_head_dim": 128,
        "dtype": "bfloat16",
        "kv_dtype": "bfloat16",
    },
    dims={"b": B, "s": S, "p": P},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    gemm_table.write(folder)
    return folder


def database(data, mode="hybrid", system="h200_sxm"):
    return PerfDatabase.load(system=system, backend="toy", mode=mode, data=data)


def rows(data):
    return read_table(next(data.glob("**/*.txt")), kind("gemm"))


def test_a_measured_row_is_returned_as_it_is(data):
    """Every row of the table, to the last digit, and it says so."""
    db, table = database(data), rows(data)
    for i in range(0, len(table), 17):
        n, k, m = (int(table.columns[name][i]) for name in ("n", "k", "m"))
        found = gemm(n=n, k=k).query(db, x=m)
        assert float(found) == pytest.approx(table.latency[i], rel=1e-12)
        assert found.origin == "measured"


def test_between_rows_and_beyond_them_the_origin_says_so(data):
    db = database(data)
    assert gemm().query(db, x=100).origin == "interpolated"  # m between measured ones
    assert gemm(n=3000).query(db, x=128).origin == "interpolated"  # a shape between measured ones
    assert gemm().query(db, x=10**6).origin == "extrapolated"
    assert gemm(n=100_000).query(db, x=128).origin == "extrapolated"


def test_an_estimate_lies_near_the_law(data):
    """A shape and an m that the table lacks; the law is that of gemm_table, the noise 1 %."""
    db, op, m = database(data), gemm(n=3072, k=5000), 300
    compute, memory = sides_ms(op.kind, op.params, {"m": m}, db.system)
    law = (max(compute, memory) + 0.004) * (1.3 + 0.5 / m + 0.1 + 200 / (3072 + 5000))
    found = op.query(db, x=m)
    assert float(found) == pytest.approx(law, rel=0.05)
    assert 0.0 < found.uncertainty < 0.2


def test_uncertainty_grows_outside(data):
    db = database(data)
    inside, edge, far = (gemm().query(db, x=m).uncertainty for m in (100, 4096, 2**20))
    assert inside < edge < far


def test_beyond_the_rows_no_price_is_below_the_bound(tmp_path):
    """Rows at half their bound come back as they are; further out the bound holds."""
    path = gemm_table.write(tmp_path)
    header, *lines = path.read_text().splitlines()
    place = header.split(",").index("latency")
    cells = [line.split(",") for line in lines]
    for row in cells:
        row[place] = str(float(row[place]) / 4)
    path.write_text("\n".join([header, *(",".join(row) for row in cells)]) + "\n")
    fast, sol = database(tmp_path), database(tmp_path, "sol")
    inside, outside = 2048, 2**17
    assert gemm().query(fast, x=inside) < gemm().query(sol, x=inside)
    found = gemm().query(fast, x=numpy.array([inside, outside]))
    assert found[0].origin == "measured"
    assert float(found[0]) == float(gemm().query(fast, x=inside))
    assert float(found[1]) == float(gemm().query(sol, x=outside))


def test_a_row_out_of_all_proportion_says_so(tmp_path):
    """Forty times its neighbours: it is returned as it is, with an uncertainty that covers them; others are calm."""
    path = gemm_table.write(tmp_path)
    header, *lines = path.read_text().splitlines()
    place = header.split(",").index("latency")
    for number, line in enumerate(lines):
        cells = line.split(",")
        if cells[6:9] == ["64", "2048", "4096"]:
            cells[place] = str(40 * float(cells[place]))
            lines[number] = ",".join(cells)
    path.write_text("\n".join([header, *lines]) + "\n")
    off, calm = (gemm().query(database(tmp_path), x=m) for m in (64, 128))
    assert (off.origin, calm.origin) == ("measured", "measured")
    assert off > 20 * calm
    assert 30 < off.uncertainty < 60
    assert calm.uncertainty < 0.1


def test_arrays_equal_numbers(data):
    """One call with arrays gives what a call each gives, whatever the shapes that broadcast."""
    db, op = database(data), gemm(count=3)
    b, s = numpy.array([[1], [3], [64]]), numpy.array([[1, 77, 128, 5000]])
    found = op.query(db, batch_size=b, s=s)
    assert found.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            one = op.query(database(data), batch_size=int(b[i, 0]), s=int(s[0, j]))
            assert float(found[i, j]) == pytest.approx(float(one), rel=1e-12)
            assert found[i, j].origin == one.origin
            assert found[i, j].uncertainty == pytest.approx(one.uncertainty, rel=1e-12)


def test_repetitions_multiply(data):
    db = database(data)
    assert float(gemm(count=7).query(db, x=64)) == pytest.approx(7 * float(gemm().query(db, x=64)))


def test_x_beams_and_prefix(data):
    """x replaces b*s where only the product counts; a beam is a sequence; attention keeps b, s and the prefix."""
    sol = database(data, "sol")
    assert gemm().query(sol, x=96) == gemm().query(sol, batch_size=3, s=32)
    assert ATTENTION.query(sol, batch_size=2, prefix=100, beam_width=4) == ATTENTION.query(
        sol, batch_size=8, prefix=100
    )
    assert ATTENTION.query(sol, x=999, batch_size=2, prefix=100) == ATTENTION.query(
        sol, batch_size=2, prefix=100
    )


def test_sol_and_its_sides(data):
    """2 FLOPs and bytes by hand: m 64, n 2048, k 4096, two bytes an element, on 989.5 TFLOP/s and 4.8 TB/s."""
    compute_ms = 2 * 64 * 2048 * 4096 / 989.5e12 * 1e3
    memory_ms = 2 * (64 * 4096 + 2048 * 4096 + 64 * 2048) / 4.8e12 * 1e3
    assert memory_ms > compute_ms
    found = gemm().query(database(data, "SOL"), x=64)
    assert isinstance(found, PerformanceResult)
    assert (float(found), found.origin) == (pytest.approx(memory_ms), "sol")
    bound, compute, memory = gemm(count=2).query(database(data, "sol_full"), x=64)[:3]
    assert float(bound) == float(memory) == pytest.approx(2 * memory_ms)
    assert float(compute) == pytest.approx(2 * compute_ms)


def test_empirical_is_the_bound_over_a_stated_efficiency(data):
    op, db = gemm(), database(data, "empirical")
    stated = efficiency_of(op.kind)
    compute, memory = sides_ms(op.kind, op.params, {"m": 4096}, db.system)
    found = op.query(db, x=4096)
    expected = max(compute / stated.compute, memory / stated.memory) + stated.launch_ms
    assert float(found) == pytest.approx(expected)
    assert (found.origin, found.uncertainty) == ("empirical", stated.uncertainty)


def test_silicon_never_falls_back(data):
    """An op without rows is an error that names the op, its parameters, the table and what is nearest; hybrid says
    empirical."""
    op = gemm(dtype="float32")
    with pytest.raises(PerfDataNotAvailableError) as error:
        op.query(database(data, "silicon"), x=64)
    for part in ("gemm", "n=2048", "dtype=float32", "gemm_perf.txt", "bfloat16"):
        assert part in str(error.value)
    with pytest.raises(PerfDataNotAvailableError, match="generation_attention"):
        ATTENTION.query(database(data, "silicon"), batch_size=1, prefix=10)
    assert op.query(database(data), x=64).origin == "empirical"
    assert ATTENTION.query(database(data), prefix=10).origin == "empirical"


def test_a_bias_does_not_matter(data):
    """What hardly changes the time is answered by rows without it."""
    params = {"n": 2048, "k": 4096, "dtype": "bfloat16", "bias": True, "tied": True}
    op = Op(op="gemm", name="proj", params=params, dims={"m": B})
    assert op.query(database(data), batch_size=64).origin == "measured"


def test_coverage(data):
    db = database(data)
    cover = [
        db.coverage(op, b=m, s=1)
        for op, m in ((gemm(), 64), (gemm(), 100), (gemm(), 10**6), (gemm(dtype="float32"), 64))
    ]
    assert cover == ["exact", "interpolable", "outside", "missing"]


def test_modes_are_checked(data):
    with pytest.raises(InvalidInputError, match="sol_full"):
        database(data, "fast")
    with pytest.raises(InvalidInputError, match="backend"):
        PerfDatabase.load(system="h200_sxm", mode="silicon")


def test_a_mode_that_the_gpu_cannot_multiply_in_is_overridden(data):
    """nvfp4 on Hopper runs fp8, fp8 on Ampere 16-bit products of fp8 weights, and the database says so."""
    hopper, ampere = database(data), database(data, "sol", "a100_sxm")
    four, eight = gemm(dtype="nvfp4"), gemm(dtype="fp8")
    assert float(four.query(hopper, x=8)) == float(eight.query(hopper, x=8))
    assert "nvfp4" in next(iter(hopper.notes))
    assert float(eight.query(ampere, x=8)) == float(gemm(dtype="fp8_wo").query(ampere, x=8))
    assert "fp8_wo" in next(iter(ampere.notes))


def test_a_group_over_servers_is_at_the_speed_of_the_network(data):
    """16 H200 in two servers: 1 GiB summed sends 128 MiB a GPU at 50 GB/s, and says that nothing was measured; a group
    within a server, and a system without a network, go on as before."""
    whole = 2**30

    def reduce(gpus, system, mode="hybrid"):
        op = Op(op="all_reduce", name="r", params={"num_gpus": gpus}, dims={"bytes": whole})
        return op.query(database(data, mode, system))

    over = reduce(16, "h200_sxm")
    assert over.latency == pytest.approx(whole / 8 / 50e9 * 1e3)
    assert over.origin == "sol"
    assert over.uncertainty > 0
    assert reduce(16, "h200_sxm", "sol").latency == over.latency
    assert reduce(8, "h200_sxm", "sol").latency == pytest.approx(whole / 450e9 * 1e3)
    assert reduce(8, "h200_sxm").origin == "empirical"
    assert reduce(72, "gb200").origin == "empirical"
    assert reduce(16, "l40s").origin == "empirical"


def test_an_error_names_what_was_asked_and_what_ran(data):
    """A quantisation that another stands for, as the GPU has no such products, is named with it."""
    with pytest.raises(PerfDataNotAvailableError) as error:
        gemm(dtype="fp8").query(database(data, "silicon", "a100_sxm"), x=8)
    assert re.search(r"dtype=fp8_wo \(in place of fp8\)", str(error.value))
    with pytest.raises(PerfDataNotAvailableError) as error:
        gemm(dtype="int8_wo").query(database(data, "silicon"), x=8)
    assert "dtype=int8_wo " in str(error.value)
    assert "in place of" not in str(error.value)


def test_energy_comes_with_a_table_of_power(tmp_path):
    """W by rows: energy is power times latency; without the column it is unknown. Between rows it is less certain, and
    no estimate goes beyond what the GPU has."""
    path = gemm_table.write(tmp_path)
    assert gemm().query(database(tmp_path), x=64).energy is None
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header + ",power", *(f"{line},500" for line in lines)]) + "\n")
    known, between = (gemm().query(database(tmp_path), x=m) for m in (64, 100))
    assert known.power == pytest.approx(500)
    assert known.energy == pytest.approx(500 * float(known))
    assert between.power == pytest.approx(500, rel=0.1)
    assert between.energy_uncertainty >= known.energy_uncertainty > known.uncertainty
    far = gemm().query(database(tmp_path), x=10**6)
    assert far.power <= 0.82 * load_system("h200_sxm").tdp.base


def test_power_goes_by_the_share_of_the_bound(tmp_path):
    """A tenth more than usual in eight rows of a table is a tenth more everywhere else."""
    path = gemm_table.write(tmp_path)
    header, *lines = path.read_text().splitlines()
    system = load_system("h200_sxm")

    def usual(op, m):
        one = op.query(database(tmp_path), x=m)
        share = min(float(op.query(database(tmp_path, mode="sol"), x=m)) / float(one), 1.0)
        return system.tdp.base * (0.02 + 0.8 * share)

    columns = header.split(",")
    rows = []
    for i, line in enumerate(lines):
        row = dict(zip(columns, line.split(","), strict=True))
        op = gemm(n=int(row["n"]), k=int(row["k"]))
        rows.append(f"{line},{1.1 * usual(op, int(row['m']))}" if i % 40 == 0 else f"{line},nan")
    path.write_text("\n".join([header + ",power", *rows]) + "\n")
    for m in (3, 64, 700):
        assert gemm().query(database(tmp_path), x=m).power == pytest.approx(
            min(1.1 * usual(gemm(), m), 0.82 * system.tdp.base), rel=0.01
        )


def test_a_few_rows_with_power_serve_all(tmp_path):
    """Rows without power, nan or an empty cell, keep their times; fewer than four with it say nothing."""
    path = gemm_table.write(tmp_path)
    header, *lines = path.read_text().splitlines()
    known = {count: [len(lines) * i // count for i in range(count)] for count in (3, 8)}
    times = [float(gemm().query(database(tmp_path), x=m)) for m in (64, 100)]
    for count, places in known.items():
        power = [str(400 + i) if i in places else ("nan", "")[i % 2] for i in range(len(lines))]
        rows = [f"{line},{watts}" for line, watts in zip(lines, power, strict=True)]
        path.write_text("\n".join([header + ",power", *rows]) + "\n")
        for m, time in zip((64, 100), times, strict=True):
            found = gemm().query(database(tmp_path), x=m)
            assert float(found) == time
            if count == 3:
                assert found.energy is None
            else:
                assert 300 < found.power < 400 + len(lines) + 100


def test_results_survive_json(data):
    """A result is a float: json writes its latency."""
    assert json.loads(json.dumps(gemm().query(database(data), x=64))) > 0


@settings(max_examples=60, deadline=None)
@given(m=st.lists(st.integers(1, 2**20), min_size=1, max_size=8), n=st.integers(100, 20_000))
def test_coverage_is_the_origin_that_a_price_has(data, m, n):
    """Asking what is covered takes no estimate and gives the origins of the prices, at any place."""
    db = database(data)
    for op in (gemm(n=n), gemm(n=2048)):
        prices = op.query(db, x=numpy.array(m))
        entry = db.entry(op.kind, op.params, {"m": 1})
        assert entry.latency.ranks({"m": numpy.array(m)}).tolist() == prices.ranks.tolist()


def test_ops_between_the_same_rows_share_what_was_fitted(data):
    db = database(data)
    first, second = (db.entry(kind("gemm"), gemm(n=n).params, {"m": 1}) for n in (700, 900))
    assert first.latency.estimator is second.latency.estimator


def messages(folder, text):
    """A file of all_reduce, bytes of half precision."""
    place = folder / "h200_sxm" / "comm" / "toy" / "1"
    place.mkdir(parents=True)
    head = "framework,version,device,op_name,kernel_source,allreduce_dtype,num_gpus,message_size,latency"
    (place / "custom_allreduce_perf.txt").write_text(f"{head}\n{text}")
    return PerfDatabase.load(system="h200_sxm", backend="toy", mode="silicon", data=folder)


def test_a_measured_message_is_returned_as_it_is_where_links_bound_it(tmp_path):
    """The bound that a row is set against is the one that its price is made of again, links included."""
    sizes = [2**i for i in range(10, 28)]
    latency = {size: 0.003 + size * 4e-9 for size in sizes}
    text = "\n".join(f"x,1,gpu,all_reduce,k,bfloat16,8,{s},{ms}" for s, ms in latency.items())
    db = messages(tmp_path, text)
    for elements, ms in latency.items():
        params = {"num_gpus": 8, "dtype": "bfloat16"}
        op = Op(op="all_reduce", name="sum", params=params, dims={"bytes": 2 * elements})
        found = op.query(db)
        assert float(found) == pytest.approx(ms, rel=1e-12)
        assert found.origin == "measured"


def test_of_rows_that_differ_in_what_is_immaterial_the_op_s_own_answer(tmp_path):
    """A dtype hardly changes a sum, but where both were measured each has its own row."""
    text = "\n".join(
        f"x,1,gpu,all_reduce,k,{dtype},8,{elements},{ms}"
        for dtype, ms, count in (("bfloat16", 0.01, 6), ("float32", 0.02, 4))
        for elements in [2**i for i in range(10, 10 + count)]
    )
    db = messages(tmp_path, text)
    for dtype, width, ms in (("bfloat16", 2, 0.01), ("float32", 4, 0.02)):
        params = {"num_gpus": 8, "dtype": dtype}
        op = Op(op="all_reduce", name="sum", params=params, dims={"bytes": width * 2**11})
        assert float(op.query(db)) == pytest.approx(ms, rel=1e-12)


def test_a_file_without_rows_of_a_kind_is_no_data(tmp_path):
    """Kinds that share a file do not all have rows in it; that is an answer, and hybrid goes on."""
    messages(tmp_path, "x,1,gpu,all_reduce,k,bfloat16,8,1024,0.01")
    place = tmp_path / "h200_sxm" / "comm" / "nccl" / "1"
    place.mkdir(parents=True)
    head = "framework,version,device,op_name,kernel_source,nccl_dtype,num_gpus,message_size,latency"
    (place / "nccl_perf.txt").write_text(f"{head}\nx,1,gpu,all_gather,NCCL,half,8,1024,0.01")
    params = {"num_gpus": 8, "dtype": "bfloat16"}
    op = Op(op="reduce_scatter", name="sum", params=params, dims={"bytes": 2048})
    with pytest.raises(PerfDataNotAvailableError):
        op.query(database(tmp_path, mode="silicon"))
    assert op.query(database(tmp_path)).origin == "empirical"


@pytest.mark.parametrize("mode", ["sol", "empirical", "silicon", "hybrid", "sol_full"])
def test_an_array_of_any_size_gives_an_array(data, mode):
    """In the shape of all sizes, of those too that the op does not vary with."""
    db, cached = database(data, mode), numpy.array([[0, 10, 1000]])
    found = gemm().query(db, batch_size=numpy.array([[3], [64]]), prefix=cached)
    alone = gemm().query(db, batch_size=64)
    if mode != "sol_full":
        found, alone = (found,), (alone,)
    for many, one in zip(found, alone, strict=True):
        assert many.shape == (2, 3)
        assert many[1, 0] == many[1, 2] == one
        assert many[1, 2].origin == one.origin


@pytest.mark.parametrize("mode", ["sol", "empirical", "silicon", "hybrid"])
@pytest.mark.parametrize("sizes", [{"batch_size": -1}, {"x": -8}, {"s": numpy.array([1, -1])}])
def test_a_negative_size_is_refused(data, mode, sizes):
    with pytest.raises(InvalidInputError, match="negative"):
        gemm().query(database(data, mode), **sizes)


@pytest.mark.parametrize("mode", ["sol", "empirical", "silicon", "hybrid"])
def test_nothing_to_do_takes_no_longer_than_one_row(data, mode):
    """No batch is a number too, alone and in an array, and no warning of a logarithm."""
    db = database(data, mode)
    found = gemm().query(db, batch_size=numpy.array([0, 1]))
    assert 0 <= found[0] <= found[1]
    assert gemm().query(db, batch_size=0) == found[0]


@pytest.mark.parametrize("mode", ["sol", "empirical", "silicon", "hybrid"])
@pytest.mark.parametrize("name", [k.name for k in op_kinds().values() if k.role == "communication"])
def test_a_lone_gpu_sends_nothing(data, mode, name):
    params = {"num_gpus": 1, "dtype": "bfloat16"}
    op = Op(op=name, name="alone", params=params, dims={"bytes": B * S * 8192})
    found = op.query(database(data, mode), batch_size=numpy.array([1, 4096]))
    assert found.latency.tolist() == found.energy.tolist() == found.uncertainty.tolist() == [0, 0]
    beside = gemm().query(database(data, mode), x=64)
    assert (op.query(database(data, mode), x=64) + beside).origin == beside.origin


def test_a_scan_takes_nearly_as_long_as_its_whole_chunks(tmp_path):
    """Rows at whole chunks of 256 tokens, each as long as its chunks: 1,100 tokens take the time of 1,280."""
    scan = kind("mamba2")
    params = scan.complete(
        {
            "d_inner": 4096, "d_state": 128, "num_heads": 64, "head_dim": 64, "n_groups": 8,
            "chunk_size": 256, "dtype": "bfloat16", "state_dtype": "float32", "phase": "context",
        }
    )  # fmt: skip
    ran = {"framework": "toy", "version": "1", "device": "toy", "kernel_source": "chunked"}
    rows = [
        Measurement(params=params, dims={"b": b, "s": 256 * n}, latency=0.1 * b * n, **ran)
        for b in (1, 2, 4)
        for n in (1, 2, 4, 5, 8, 16, 32)
    ]
    write_table(tmp_path / "h100_sxm" / "toy" / "1" / f"{scan.table_format.stem}.txt", scan, rows)
    db = PerfDatabase.load(system="h100_sxm", backend="toy", data=tmp_path)
    sizes = numpy.array([1100, 1279, 1280, 3000])
    found = db.price(scan, params, {"b": 2, "s": sizes}).latency
    assert numpy.allclose(found, 0.2 * numpy.ceil(sizes / 256), rtol=0.05)
