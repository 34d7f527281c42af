"""The tables of the installed package: every kind's rows are ops, and what is known to be wrong there is noticed."""

import numpy
import pytest

from oplib.errors import PerfDataNotAvailableError
from oplib.op import kind, op_kinds
from perfdb.database import PerfDatabase
from perfdb.efficiency import bounds_of
from perfdb.foreign import available, find_table, find_tables
from perfdb.row_checks import check_rows
from perfdb.speed_of_light import bound_ms
from perfdb.systems import list_systems, load_system
from perfdb.tables import read_table

pytest.importorskip("pyarrow")
pytest.importorskip("aiconfigurator_core")

TABLES = [
    (backend, name)
    for backend, missing in {
        "trtllm": set(),
        "sglang": set(),
        "vllm": {"context_mla", "generation_mla"},
    }.items()
    for name in (
        "all_gather", "all_reduce", "all_to_all", "bmm", "causal_conv1d", "context_attention", "context_mla",
        "gated_delta_rule", "gemm", "generation_attention", "generation_mla", "moe", "reduce_scatter",
    )
    if name not in missing
]  # fmt: skip


def test_ten_systems_have_tables_and_facts():
    systems = {system for system, *_ in available()}
    assert len(systems) == 10
    assert systems <= set(list_systems())


@pytest.mark.parametrize(("backend", "name"), TABLES)
def test_every_row_is_an_op_with_a_bound(backend, name):
    """On an H200: all parameters are understood, and hardly a row is faster than light."""
    for path in find_tables(kind(name), system="h200_sxm", backend=backend)[:2]:
        table = read_table(path, kind(name))
        share = table.latency / bounds_of(table, load_system("h200_sxm"))
        assert not numpy.isnan(share).any()
        allowed = 0.5 if name == "causal_conv1d" and backend == "trtllm" else 0.003
        assert (share < 0.99).mean() <= allowed, path


def test_the_slow_products_of_vllm_are_noticed():
    """fp8_block never under 55 us, 3 to 5 on the other backends; those are not blamed for it."""
    tables = {
        backend: read_table(find_table(kind("gemm"), system="h200_sxm", backend=backend), kind("gemm"))
        for backend in ("trtllm", "vllm", "sglang")
    }  # fmt: skip
    h200 = load_system("h200_sxm")
    for backend, table in tables.items():
        others = [other for other in tables.values() if other is not table]
        block = table.columns["dtype"] == "fp8_block"
        small = block & (table.latency < 0.08)
        doubtful = check_rows(table, h200, others).doubtful
        if backend == "vllm":
            assert doubtful[small].mean() > 0.95
            assert doubtful[~block].mean() < 0.001
        else:
            assert doubtful.mean() < 0.001


def test_the_convolution_that_outruns_memory_is_noticed():
    """TensorRT-LLM's update kernel takes as long for 16 as for 64 heads, up to 15 TB/s of an H200's 4.8."""
    conv = kind("causal_conv1d")
    table = read_table(find_table(conv, system="h200_sxm", backend="trtllm"), conv)
    marks = check_rows(table, load_system("h200_sxm")).marks["below_speed_of_light"]
    large = (table.kernel == "causal_conv1d_update") & (table.dims["b"] >= 512)
    assert marks[large].all()


def test_no_rows_of_a_kind_are_said_to_be_none():
    """The table of Mamba 2 has its convolution and no scan."""
    path = find_table(op_kinds()["mamba2"], system="h200_sxm", backend="trtllm")
    with pytest.raises(PerfDataNotAvailableError, match="no rows of mamba2"):
        read_table(path, kind("mamba2"))


@pytest.mark.parametrize(
    ("system", "heads", "kv_heads", "batch"), [("h200_sxm", 48, 8, 256), ("b200_sxm", 8, 8, 2048)]
)
def test_no_estimate_is_faster_than_light(system, heads, kv_heads, batch):
    """Of no row of this table is less than the bound; nor of the corner of large batches and caches that it lacks."""
    pytest.importorskip("scipy")
    db = PerfDatabase.load(system=system, backend="trtllm", mode="silicon")
    one = kind("generation_attention")
    sizes = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": 128, "v_head_dim": 128}
    params = one.complete({**sizes, "dtype": "bfloat16", "kv_dtype": "bfloat16"})
    dims = {"b": batch, "s": 1, "p": numpy.arange(1, 200_000, 997)}
    found, bound = db.price(one, params, dims), bound_ms(one, params, dims, db.system)
    assert (found.latency >= bound * (1 - 1e-9)).all()
    assert "measured" not in found.origin[1:]
