"""Tables: rows become parameters and dims of the kind, and a file that cannot is refused by name."""

import numpy
import pytest

from oplib.errors import InvalidInputError, UnknownVersionError
from oplib.op import kind, op_kinds
from perfdb.foreign import find_table
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
        assert set(one.coordinates) | set(one.immaterial) <= own, name
        assert not set(one.coordinates) & set(one.immaterial), name
        for param in one.params:
            for form in one.table_formats:
                for value in form.spellings.get(param.name, {}).values():
                    param.check(value, name)
