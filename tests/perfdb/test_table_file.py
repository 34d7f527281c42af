"""Our files: what is written comes back as it was, for every kind of op."""

import csv

import numpy
import pytest

from oplib.errors import InvalidInputError
from oplib.op import kind, op_kinds
from oplib.params import Required
from perfdb.table_file import PROVENANCE, Measurement, write_table
from perfdb.tables import read_table

pytest.importorskip("pyarrow")

RUN = {"framework": "ours", "version": "1.0", "device": "NVIDIA H200", "kernel_source": "triton_x"}
SIZES = {"d_inner": 64, "num_experts": 32, "num_heads": 4, "num_v_heads": 4, "head_dim": 16}
SPARSE = {"sparse_attention": {"num_kv_heads": 2, "head_dim": 16, "v_head_dim": 16}}
each_kind = pytest.mark.parametrize("name", list(op_kinds()))


def params_of(one, size):
    """Parameters that are valid together; `size` makes two rows differ."""
    chosen = {}
    for param in one.params:
        if param.allowed:
            chosen[param.name] = param.allowed[size % 2 if len(param.allowed) > 1 else 0]
        elif param.type is bool:
            chosen[param.name] = bool(size % 2)
        elif isinstance(param.default, Required):
            value = SIZES.get(param.name, 2 if param.type is not str else "add+mul")
            chosen[param.name] = param.type(value)
    try:
        return one.complete(chosen)
    except InvalidInputError:  # settings that exclude each other: the defaults do not
        required = {p.name for p in one.params if isinstance(p.default, Required)}
        return one.complete({name: chosen[name] for name in required} | SPARSE.get(one.name, {}))


@each_kind
def test_rows_come_back(name, tmp_path):
    """Parameters, dims, time, power, spread and what ran, each exactly."""
    one = kind(name)
    rows = [
        Measurement(
            params=params_of(one, i), dims=dict.fromkeys(one.dims, 8 * (i + 1)),
            latency=0.1 + i / 3, power=300.5 + i, spread=0.01 * i, **RUN,
        )
        for i in range(2)
    ]  # fmt: skip
    path = tmp_path / f"{one.table_format.stem}.txt"
    write_table(path, one, rows)
    table = read_table(path, one)
    assert len(table) == len(rows)
    for i, row in enumerate(rows):
        found = {param.name: table.columns[param.name][i] for param in one.params}
        assert found == row.params
        assert {
            p: type(v.item() if isinstance(v, numpy.generic) else v) for p, v in found.items()
        } == {p: type(v) for p, v in row.params.items()}
        assert {dim: table.dims[dim][i] for dim in one.dims} == row.dims
        assert (table.latency[i], table.power[i], table.spread[i]) == (
            row.latency,
            row.power,
            row.spread,
        )
        assert {key: column.decode()[i] for key, column in table.fingerprint.items()} == RUN


def test_the_columns_are_those_of_the_published_tables(tmp_path):
    """Leading columns first, then theirs by name and spelling, then ours, results and provenance."""
    path = tmp_path / "moe_perf.txt"
    params = {
        "hidden_size": 64,
        "intermediate_size": 32,
        "num_experts": 8,
        "top_k": 2,
        "dtype": "mxfp4",
    }
    write_table(
        path, kind("moe"), [Measurement(params=params, dims={"m": 5}, latency=0.5, power=200.0, **RUN)]
    )  # fmt: skip
    with path.open() as file:
        (row,) = csv.DictReader(file)
    names = list(row)
    assert names[:5] == ["framework", "version", "device", "op_name", "kernel_source"]
    assert names[-8:] == ["latency", "power", "energy", *PROVENANCE]
    theirs = {
        "op_name": "moe", "moe_dtype": "w4a16_mxfp4", "num_tokens": "5", "hidden_size": "64", "inter_size": "32",
        "topk": "2", "num_experts": "8", "moe_tp_size": "1", "moe_ep_size": "1", "distribution": "balanced",
        "energy": "100.0",
    }  # fmt: skip
    assert {name: row[name] for name in theirs} == theirs


def test_power_is_optional(tmp_path):
    path = tmp_path / "gemm_perf.txt"
    params = {"n": 8, "k": 8, "dtype": "bfloat16"}
    row = Measurement(params=params, dims={"m": 1}, latency=0.5, **RUN)
    write_table(path, kind("gemm"), [row])
    assert read_table(path, kind("gemm")).power is None


def test_rows_without_power_beside_rows_with_it_come_back(tmp_path):
    one = kind("gemm")
    path = tmp_path / "gemm_perf.txt"
    rows = [
        Measurement(
            params=params_of(one, 1),
            dims={"m": m},
            latency=0.1,
            power=400.0 if m > 1 else None,
            **RUN,
        )
        for m in (1, 2)
    ]
    write_table(path, one, rows)
    assert numpy.array_equal(read_table(path, one).power, [numpy.nan, 400.0], equal_nan=True)


@pytest.mark.parametrize(
    ("file", "op", "message"),
    [
        ("gemm_perf.parquet", "gemm", "end in .txt"),
        ("moe_perf.txt", "gemm", "no table of gemm"),
        ("mla_bmm_perf.txt", "bmm", "go into bmm_perf.txt"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path, file, op, message):
    params = {"n": 8, "k": 8, "dtype": "bfloat16"}
    dims = {"batch": 1, "m": 1} if op == "bmm" else {"m": 1}
    row = Measurement(params=params, dims=dims, latency=0.5, **RUN)
    with pytest.raises(InvalidInputError, match=message):
        write_table(tmp_path / file, kind(op), [row])


def test_no_rows_are_no_table(tmp_path):
    with pytest.raises(InvalidInputError, match="no rows"):
        write_table(tmp_path / "gemm_perf.txt", kind("gemm"), [])
