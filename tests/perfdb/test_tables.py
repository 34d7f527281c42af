"""Tables: rows become parameters and dims of the kind, and a file that cannot is refused by name."""

import numpy
import pytest

from oplib.errors import InvalidInputError, PerfDataNotAvailableError, UnknownVersionError
from oplib.op import kind, op_kinds
from perfdb.efficiency import groups_of
from perfdb.foreign import find_table
from perfdb.row_checks import check_rows
from perfdb.systems import load_system
from perfdb.tables import read_table
from tests.perfdb import gemm_table

pytest.importorskip("pyarrow")

ATTENTION = """framework,version,device,op_name,kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,\
beam_width,attn_dtype,kv_cache_dtype,step,latency,power
Toy,1.0,H200,context_attention,fa3,4,64,16,2,128,1,bfloat16,fp8,0,0.5,300
"""


def test_columns_of_the_reference_are_translated(tmp_path):
    """Names in our spelling, values of absent columns from the defaults, v_head_dim as wide as head_dim."""
    path = tmp_path / "context_attention_perf.txt"
    path.write_text(ATTENTION)
    table = read_table(path, kind("context_attention"))
    expected = {
        "b": 4, "s": 64, "p": 0, "num_heads": 16, "num_kv_heads": 2, "head_dim": 128, "v_head_dim": 128,
        "dtype": "bfloat16", "kv_dtype": "fp8", "window": 0, "causal": True, "masking": "skipped",
    }  # fmt: skip
    assert {name: table.columns[name][0] for name in expected} == expected
    assert (table.latency[0], table.power[0], table.kernel[0]) == (0.5, 300.0, "fa3")


def test_a_file_without_power_loads(tmp_path):
    table = read_table(gemm_table.write(tmp_path), kind("gemm"))
    assert table.power is None
    assert len(table) == len(gemm_table.ROWS_OF_M) * len(gemm_table.SIZES) ** 2
    assert table.take(numpy.array([3, 5])).row.tolist() == [4, 6]


@pytest.mark.parametrize("column", ["m", "k", "gemm_dtype", "latency"])
def test_a_missing_column_is_named(tmp_path, column):
    """Dims, required parameters and the latency have to be there."""
    with pytest.raises(InvalidInputError, match=f"no column '{column}'"):
        read_table(gemm_table.write(tmp_path, lacking=column), kind("gemm"))


def test_a_corrupt_file_is_refused(tmp_path):
    path = tmp_path / "gemm_perf.parquet"
    path.write_bytes(b"PAR1 is not enough")
    with pytest.raises(InvalidInputError, match=r"gemm_perf\.parquet cannot be read"):
        read_table(path, kind("gemm"))


def test_text_where_numbers_belong_is_refused(tmp_path):
    path = tmp_path / "context_attention_perf.txt"
    path.write_text(ATTENTION.replace("0.5,300", "fast,300"))
    with pytest.raises(InvalidInputError, match="'latency'"):
        read_table(path, kind("context_attention"))


def test_the_newest_version_is_found(tmp_path):
    """rc20 comes after rc3; a version that is not there is answered with those that are."""
    for version in ("1.3.0rc3", "1.3.0rc20", "1.2.0"):
        folder = tmp_path / "h200_sxm" / "gemm" / "trtllm" / version
        folder.mkdir(parents=True)
        (folder / "gemm_perf.parquet").touch()
    where = {"system": "h200_sxm", "backend": "trtllm", "data": tmp_path}
    assert find_table(kind("gemm"), **where).parent.name == "1.3.0rc20"
    assert find_table(kind("gemm"), **where, version="1.2.0").parent.name == "1.2.0"
    with pytest.raises(UnknownVersionError, match=r"1\.2\.0, 1\.3\.0rc3, 1\.3\.0rc20"):
        find_table(kind("gemm"), **where, version="9")


def test_each_format_speaks_of_its_own_kind():
    """A column, spelling or assumed value is that of a parameter or dim, and every coordinate is one."""
    for name, one in op_kinds().items():
        own = {param.name for param in one.params} | set(one.dims)
        for form in one.table_formats:
            assert set(form.columns) | set(form.spellings) | set(form.absent) <= own, name
            assert set(form.derived) <= own, name
        stems = [form.stem for form in one.table_formats]
        assert one.table_format.stem in stems, name
        assert len(set(stems)) == len(stems), name
        assert set(one.coordinates) | set(one.immaterial) <= own | set(one.implied), name
        assert set(one.implied) <= set(one.coordinates) - own, name
        assert not set(one.coordinates) & set(one.immaterial), name
        for param in one.params:
            for form in one.table_formats:
                for value in form.spellings.get(param.name, {}).values():
                    param.check(value, name)


HEAD = "framework,version,device,op_name,kernel_source"


def rows_of(tmp_path, stem, op, columns, *rows):
    """The table of an op in a file of these rows."""
    path = tmp_path / f"{stem}.txt"
    path.write_text("\n".join([f"{HEAD},{columns},latency", *rows]) + "\n")
    return read_table(path, kind(op))


def test_moe_rows_hold_what_one_gpu_holds(tmp_path):
    """Experts cut by moe_tp_size, divided by moe_ep_size, tokens of all; a gate unless kernel or shape says no."""
    table = rows_of(
        tmp_path, "moe_perf", "moe",
        "moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution",
        "X,1,H,moe,cutlass,w4a16_mxfp4,64,7168,2048,8,256,4,8,power_law_1.2,0.3",
        "X,1,H,moe,some_nongated,fp8,1,4096,512,8,256,1,1,balanced,0.3",
        "X,1,H,moe,vllm_flashinfer,fp8,1,4096,2688,22,512,1,1,balanced,0.3",
        "X,1,H,moe,vllm_fused_moe,fp8,1,4096,2688,22,512,1,1,balanced,0.3",
    )  # fmt: skip
    found = {name: column.tolist() for name, column in table.columns.items()}
    assert found["intermediate_size"] == [512, 512, 2688, 2688]
    assert found["ep_size"] == [8, 1, 1, 1]
    assert found["gated"] == [True, False, False, True]
    assert found["dtype"][0] == "mxfp4"
    assert (found["m"][0], found["num_experts"][0], found["top_k"][0]) == (64, 256, 8)


def test_messages_are_counted_in_elements(tmp_path):
    """1,024 elements are 2,048 bytes of half and 1,024 of int8; only rows of the collective are taken."""
    table = rows_of(
        tmp_path, "nccl_perf", "all_to_all", "nccl_dtype,num_gpus,message_size",
        "X,1,H,alltoall,NCCL,half,8,1024,0.01",
        "X,1,H,alltoall,NCCL,int8,8,1024,0.01",
        "X,1,H,all_gather,NCCL,int8,8,1024,0.01",
    )  # fmt: skip
    assert table.dims["bytes"].tolist() == [2048, 1024]
    assert table.columns["dtype"].tolist() == ["bfloat16", "int8"]


def test_products_of_an_absorbed_attention(tmp_path):
    table = rows_of(
        tmp_path, "mla_bmm_perf", "bmm", "bmm_dtype,num_tokens,num_heads",
        "X,1,H,mla_gen_pre,bmm,bfloat16,4,16,0.01",
        "X,1,H,mla_gen_post,bmm,bfloat16,4,16,0.01",
    )  # fmt: skip
    assert table.columns["n"].tolist() == [512, 128]
    assert table.columns["k"].tolist() == [128, 512]
    assert table.columns["shared_b"].tolist() == [True, True]
    assert table.dims["batch"].tolist() == [16, 16]


def test_one_file_holds_convolution_and_recurrence(tmp_path):
    """GDN rows are told apart by their kernel; a fused or speculative one belongs to neither."""
    columns = "phase,batch_size,seq_len,d_conv,num_k_heads,head_k_dim,num_v_heads,head_v_dim"
    rows = (
        "X,1,H,gdn,causal_conv1d_fn,context,2,64,4,16,128,32,128,0.01",
        "X,1,H,gdn,chunk_gated_delta_rule,context,2,64,4,16,128,32,128,0.01",
        "X,1,H,gdn,fused_recurrent_gated_delta_rule,generation,2,1,4,16,128,32,128,0.01",
        "X,1,H,gdn,fused_recurrent_gated_delta_rule,verify,2,4,4,16,128,32,128,0.01",
        "X,1,H,gdn,fused_all,generation,2,1,4,16,128,32,128,0.01",
    )
    conv = rows_of(tmp_path, "gdn_perf", "causal_conv1d", columns, *rows)
    assert conv.row.tolist() == [1]
    assert conv.columns["channels"].tolist() == [2 * 16 * 128 + 32 * 128]
    rule = rows_of(tmp_path, "gdn_perf", "gated_delta_rule", columns, *rows)
    assert rule.row.tolist() == [2, 3]
    assert rule.columns["state_dtype"].tolist() == ["float32", "bfloat16"]


def test_a_file_of_other_ops_has_no_measurements(tmp_path):
    columns, row = "nccl_dtype,num_gpus,message_size", "X,1,H,broadcast,NCCL,int8,8,1024,0.01"
    with pytest.raises(PerfDataNotAvailableError, match="no rows of all_gather"):
        rows_of(tmp_path, "nccl_perf", "all_gather", columns, row)


def test_a_row_that_lacks_a_value_is_refused(tmp_path):
    """A hole is not a zero."""
    with pytest.raises(InvalidInputError, match=r"'num_gpus'.*empty in 1 rows"):
        rows_of(
            tmp_path, "nccl_perf", "all_gather", "nccl_dtype,num_gpus,message_size",
            "X,1,H,all_gather,NCCL,int8,8,1024,0.01", "X,1,H,all_gather,NCCL,int8,,1024,0.01",
        )  # fmt: skip


def test_a_table_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"no table of moe.*moe_perf"):
        read_table(gemm_table.write(tmp_path), kind("moe"))


def test_split_gives_each_combination_once(tmp_path):
    """Rows come back in order, under the values that they share."""
    table = read_table(gemm_table.write(tmp_path), kind("gemm"))
    groups = list(table.split(["n", "dtype"]))
    assert [shared["n"] for shared, _ in groups] == list(gemm_table.SIZES)
    assert all(type(shared["n"]) is int for shared, _ in groups)
    for shared, places in groups:
        assert (table.columns["n"][places] == shared["n"]).all()
        assert (numpy.diff(places) > 0).all()
    assert sum(len(places) for _, places in groups) == len(table)


def edited(tmp_path, old, new, count=1):
    path = gemm_table.write(tmp_path)
    path.write_text(path.read_text().replace(old, new, count))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",512,512,", ",abc,512,", r"Column 'n' of .* has 'abc'\. It takes int"),
        (",512,512,", ",512.5,512,", r"Column 'n' of .* has 512\.5\. It takes int"),
        ("kernel_source,", "kernel_source,latency,", "column"),
        ("op_name", "latency", "the column 'latency' several times"),
    ],
)
def test_a_damaged_cell_or_header_is_one_error(tmp_path, old, new, message):
    with pytest.raises(InvalidInputError, match=message):
        read_table(edited(tmp_path, old, new), kind("gemm"))


def test_a_file_with_another_separator_is_refused(tmp_path):
    """It is no table without rows."""
    with pytest.raises(InvalidInputError, match="none of the columns"):
        read_table(edited(tmp_path, ",", ";", -1), kind("gemm"))


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "gemm_perf.txt"
    path.write_bytes(b"a,b\n\x00\x01\n\n,,,\n1,2\n")
    with pytest.raises(InvalidInputError) as caught:
        read_table(path, kind("gemm"))
    assert "\n" not in str(caught.value)


def test_bytes_before_and_behind_lines_do_not_matter(tmp_path):
    """A byte order mark, lines that end as on Windows, columns in another order and columns of others."""
    path = gemm_table.write(tmp_path)
    before = read_table(path, kind("gemm"))
    lines = [",".join([*line.split(",")[::-1], "more"]) for line in path.read_text().split()]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    after = read_table(path, kind("gemm"))
    assert after.latency.tolist() == before.latency.tolist()
    assert all((after.columns[name] == before.columns[name]).all() for name in before.columns)


@pytest.mark.parametrize(
    ("column", "value"),
    [("m", "0"), ("m", "-8"), ("n", "0"), ("k", "-1"), ("latency", "inf"), ("latency", "0")],
)
def test_a_row_of_no_size_or_time_is_found_and_not_estimated_from(tmp_path, column, value):
    path = gemm_table.write(tmp_path)
    lines = path.read_text().splitlines()
    cells = dict(zip(lines[0].split(","), lines[5].split(","), strict=True)) | {column: value}
    path.write_text("\n".join([*lines[:5], ",".join(cells.values()), *lines[6:]]) + "\n")
    table, system = read_table(path, kind("gemm")), load_system("h200_sxm")
    assert numpy.flatnonzero(check_rows(table, system).doubtful).tolist() == [4]
    (group,) = groups_of(table, system)
    assert len(group.ratios) == len(table) - 1
    assert numpy.isfinite(group.points).all()
