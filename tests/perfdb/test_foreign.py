"""Where tables are looked for: which folder, version and file counts, and what is said where there is none."""

import pytest

from oplib.errors import (
    PerfDataNotAvailableError,
    UnknownBackendError,
    UnknownSystemError,
    UnknownVersionError,
)
from oplib.op import kind
from perfdb import foreign
from perfdb.foreign import available, find_table, find_tables, release, serving_version


def put(folder, *places):
    """Empty files; the place of each is its folder and name."""
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture
def data(tmp_path):
    return put(
        tmp_path,
        "h200_sxm/gemm/trtllm/1.2/gemm_perf.parquet",
        "h200_sxm/moe/trtllm/1.2/moe_perf.parquet",
        "h200_sxm/moe/trtllm/1.1/moe_perf.parquet",
        "h200_sxm/moe/trtllm/1.3/moe_perf.parquet",
        "h200_sxm/comm/nccl/2.9/nccl_perf.parquet",
        "h200_sxm/comm/nccl/2.29.2/nccl_perf.parquet",
        "h200_sxm/comm/trtllm/1.1/custom_allreduce_perf.parquet",
        "h200_sxm/vllm/0.9/gemm_perf.txt",
        "h200_sxm/vllm/0.9/notes.yaml",
    )


def versions(paths):
    return [f"{path.parent.name}/{path.stem}" for path in paths]


def test_both_layouts_are_listed(data):
    """With a family in between and without; files that are no tables do not count."""
    assert available(data) == [
        ("h200_sxm", "nccl", "2.9", ["nccl_perf"]),
        ("h200_sxm", "nccl", "2.29.2", ["nccl_perf"]),
        ("h200_sxm", "trtllm", "1.1", ["custom_allreduce_perf", "moe_perf"]),
        ("h200_sxm", "trtllm", "1.2", ["gemm_perf", "moe_perf"]),
        ("h200_sxm", "trtllm", "1.3", ["moe_perf"]),
        ("h200_sxm", "vllm", "0.9", ["gemm_perf"]),
    ]


def test_the_main_version_counts_first(data):
    """1.3 adds one op and is no whole release: its table comes last, after the older ones."""
    where = {"system": "h200_sxm", "backend": "trtllm", "data": data}
    found = find_tables(kind("moe"), **where)
    assert versions(found) == ["1.2/moe_perf", "1.1/moe_perf", "1.3/moe_perf"]
    assert find_table(kind("moe"), **where, version="1.3").parent.name == "1.3"
    assert versions(find_tables(kind("moe"), **where, version="1.1")) == ["1.1/moe_perf"]


def test_tables_of_nccl_have_versions_of_their_own(data):
    """Whatever engine and version is asked; all_reduce has the engine's own table in front."""
    where = {"system": "h200_sxm", "backend": "trtllm", "data": data}
    assert versions(find_tables(kind("all_gather"), **where, version="1.3")) == [
        "2.29.2/nccl_perf",
        "2.9/nccl_perf",
    ]
    assert versions(find_tables(kind("all_reduce"), **where)) == [
        "1.1/custom_allreduce_perf",
        "2.29.2/nccl_perf",
        "2.9/nccl_perf",
    ]
    nccl = find_tables(
        kind("all_gather"), system="h200_sxm", backend="nccl", version="2.9", data=data
    )
    assert versions(nccl) == ["2.9/nccl_perf"]


def test_our_own_folder_counts_first(tmp_path, monkeypatch):
    """The same table in both: ours."""
    ours = put(tmp_path / "ours", "h200_sxm/trtllm/1.2/gemm_perf.txt")
    theirs = put(
        tmp_path / "theirs",
        "h200_sxm/gemm/trtllm/1.2/gemm_perf.parquet",
        "h200_sxm/moe/trtllm/1.2/moe_perf.parquet",
    )
    monkeypatch.setattr(foreign, "OWN_DATA", ours)
    monkeypatch.setattr(foreign, "data_folder", lambda: theirs)
    where = {"system": "h200_sxm", "backend": "trtllm"}
    assert find_table(kind("gemm"), **where) == ours / "h200_sxm/trtllm/1.2/gemm_perf.txt"
    assert find_table(kind("moe"), **where).is_relative_to(theirs)
    assert available() == [("h200_sxm", "trtllm", "1.2", ["gemm_perf", "moe_perf"])]


def test_without_the_package_our_own_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "PACKAGE", "no_such_package")
    monkeypatch.setattr(foreign, "OWN_DATA", tmp_path / "none")
    with pytest.raises(PerfDataNotAvailableError, match="not installed"):
        available()
    monkeypatch.setattr(foreign, "OWN_DATA", put(tmp_path, "l40s/vllm/1/gemm_perf.txt"))
    assert available() == [("l40s", "vllm", "1", ["gemm_perf"])]


def test_collectives_alone_price_no_model(data):
    """A backend without a table of an op that computes is not offered for models, nor one that is not there."""
    assert serving_version("h200_sxm", "trtllm", data=data) == "1.2"
    assert serving_version("h200_sxm", "vllm", version="0.9", data=data) == "0.9"
    for backend, said in (("nccl", "collectives alone"), ("llamacpp", "'llamacpp'")):
        with pytest.raises(UnknownBackendError, match=said) as error:
            serving_version("h200_sxm", backend, data=data)
        assert str(error.value).endswith("for models: trtllm, vllm.")
    put(data, "l40s/nccl/2.9/nccl_perf.txt")
    with pytest.raises(UnknownBackendError, match="for models: none"):
        serving_version("l40s", "nccl", data=data)


def test_what_is_unknown_is_named_with_what_there_is(data):
    """Names are misuse, status 2; a table that is missing is no answer, status 1."""
    gemm = kind("gemm")
    with pytest.raises(UnknownSystemError, match=r"'h900'.*h200_sxm"):
        find_table(gemm, system="h900", backend="trtllm", data=data)
    with pytest.raises(PerfDataNotAvailableError, match=r"No tables of l40s.*h200_sxm"):
        find_table(gemm, system="l40s", backend="trtllm", data=data)
    with pytest.raises(UnknownBackendError, match=r"'llamacpp'.*nccl, trtllm, vllm"):
        find_table(gemm, system="h200_sxm", backend="llamacpp", data=data)
    with pytest.raises(UnknownVersionError, match=r"trtllm 9.*1\.1, 1\.2, 1\.3"):
        find_table(gemm, system="h200_sxm", backend="trtllm", version="9", data=data)
    with pytest.raises(PerfDataNotAvailableError, match=r"gemm_perf.*h200_sxm/trtllm/1\.2"):
        find_table(gemm, system="h200_sxm", backend="trtllm", version="1.3", data=data)
    with pytest.raises(UnknownSystemError, match="no folder"):
        find_table(gemm, system="h200_sxm", backend="trtllm", data=data / "none")
    assert UnknownBackendError.exit_code == UnknownVersionError.exit_code == 2


def test_versions_in_order():
    names = ["1.2.0rc5", "1.2.0", "1.3.0rc3", "1.3.0rc20", "1.3.0", "1.3.0.post2", "1.3.1", "1.10"]
    assert sorted(names, key=release) == names
