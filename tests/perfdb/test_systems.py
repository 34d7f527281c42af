"""Every system states every fact with unit and source, and the figures are plausible together."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from oplib.errors import InvalidInputError, UnknownSystemError
from perfdb.systems import UNITS, System, list_systems, load_system, parse_system

ROOT = Path(__file__).resolve().parents[2]
UNIT_OF = {
    "memory_bandwidth": "TB/s",
    "memory_capacity": "GB",
    "l2_capacity": "MiB",
    "num_sms": "count",
    "tdp": "W",
    "interconnect_bw_one_way": "GB/s",
    "host_bw_one_way": "GB/s",
}
NOT_EVERYWHERE = {"network_bw_one_way": "GB/s"}


@pytest.fixture(params=list_systems())
def system(request: pytest.FixtureRequest) -> System:
    return load_system(request.param)


def test_the_shipped_systems_are_listed() -> None:
    """A file in perfdb/systems/ is a system; there is no second list."""
    assert list_systems() == sorted(path.stem for path in (ROOT / "perfdb/systems").iterdir())
    tables = {"a100_sxm", "b200_sxm", "b300_sxm", "b60", "gb200", "gb300", "h100_sxm", "h200_sxm"}
    assert tables | {"l40s", "rtx_pro_6000_server"} <= set(list_systems())


def test_every_number_has_its_unit_and_source(system: System) -> None:
    for name, number in system.quantities().items():
        assert number.unit == (UNIT_OF | NOT_EVERYWHERE).get(name, "TFLOP/s"), name
        assert number.unit in UNITS, name
        assert number.value > 0, name
        assert number.source.startswith("https://"), name
        assert ", 20" in number.source, f"{name}: the source states no date"
    assert system.quantities().keys() >= UNIT_OF.keys()


def test_every_source_is_used(system: System) -> None:
    """A source that no number cites is a left-over."""
    text = (ROOT / f"perfdb/systems/{system.id}.toml").read_text(encoding="utf-8")
    urls = {source["url"] for source in tomllib.loads(text)["sources"].values()}
    cited = {number.source.partition(" ")[0] for number in system.quantities().values()}
    assert urls == cited


def test_rates_rise_as_the_dtype_narrows(system: System) -> None:
    """Dense tensor-core rates about double with each halving of the width."""
    peak = {dtype: number.base for dtype, number in system.peak.items()}
    assert peak["float32"] <= peak.get("tf32", peak["float32"]) <= peak["bfloat16"]
    assert peak["bfloat16"] == peak["float16"]
    if "tf32" in peak:
        assert peak["bfloat16"] / peak["tf32"] == pytest.approx(2, rel=0.02)
    narrow = [("fp8", "bfloat16"), ("int8", "bfloat16"), ("mxfp4", "fp8")]
    assert "nvfp4" not in peak or 2 <= round(peak["nvfp4"] / peak["fp8"], 2) <= 3.12  # Ultra: 3
    for dtype, wider in narrow:
        if dtype in peak:
            assert peak[dtype] / peak[wider] == pytest.approx(2, rel=0.03), dtype


def test_figures_are_plausible_together(system: System) -> None:
    """Catches a slip of a unit: FLOPs per byte, SMs, cache against memory, links against memory."""
    assert 100 < system.peak["bfloat16"].base / system.memory_bandwidth.base < 500
    assert 20 <= system.num_sms.base <= 192
    assert system.l2_capacity.base < 0.01 * system.memory_capacity.base
    assert system.host_bw_one_way.base <= system.interconnect_bw_one_way.base
    assert system.interconnect_bw_one_way.base < system.memory_bandwidth.base
    assert 150 <= system.tdp.base <= 1400
    if system.network_bw_one_way is not None:
        assert system.joins > 1
        assert system.network
        assert system.network_bw_one_way.base < system.host_bw_one_way.base


def test_known_figures() -> None:
    """H200: half of the datasheet's 1,979 TFLOP/s with sparsity; 4.8 TB/s; 141 GB."""
    h200 = load_system("h200_sxm")
    assert h200.peak["bfloat16"].base == 989.5e12
    assert h200.memory_bandwidth.base == 4.8e12
    assert h200.memory_capacity.base == 141e9
    assert h200.l2_capacity.base == 60 * 2**20
    assert "fp8" not in load_system("a100_sxm").peak


def test_unknown_system_lists_what_exists() -> None:
    with pytest.raises(UnknownSystemError) as raised:
        load_system("h300_sxm")
    assert isinstance(raised.value, InvalidInputError)
    assert "h300_sxm" in str(raised.value)
    for name in list_systems():
        assert name in str(raised.value)


@pytest.mark.parametrize("name", ["../systems/h200_sxm", "H200_SXM", "", "h200_sxm.toml"])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(UnknownSystemError):
        load_system(name)


def test_records_are_frozen(system: System) -> None:
    """load_system returns the same record to every caller."""
    with pytest.raises(FrozenInstanceError):
        system.name = "other"  # type: ignore[misc]  # the point of the test
    with pytest.raises(TypeError):
        system.peak["fp8"] = system.tdp  # type: ignore[index]  # the point of the test
    assert load_system(system.id) is system


def drop_source(data: dict[str, Any]) -> None:
    del data["memory"]["bandwidth"]["source"]


def unknown_source(data: dict[str, Any]) -> None:
    data["memory"]["bandwidth"]["source"] = "hearsay"


def unknown_unit(data: dict[str, Any]) -> None:
    data["peak"]["fp8"]["unit"] = "TFLOPS"


def misspelt_field(data: dict[str, Any]) -> None:
    data["chip"]["tdp"]["sourse"] = "datasheet"


def missing_fact(data: dict[str, Any]) -> None:
    del data["chip"]["tdp"]


@pytest.mark.parametrize(
    "spoil", [drop_source, unknown_source, unknown_unit, misspelt_field, missing_fact]
)
def test_a_faulty_file_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    """Raise rather than invent: no default stands in for a fact."""
    text = (ROOT / "perfdb/systems/h200_sxm.toml").read_text(encoding="utf-8")
    data = copy.deepcopy(tomllib.loads(text))
    spoil(data)
    with pytest.raises((KeyError, ValueError)):
        parse_system("spoilt", data)


@pytest.mark.golden
def test_systems_golden(golden: Callable[[str, str], None]) -> None:
    """Every figure of every system, so that a change of one shows in review."""
    lines = [
        f"{name:10} {key:24} {number.value:>9g} {number.unit}"
        for name in list_systems()
        for key, number in load_system(name).quantities().items()
    ]
    golden("systems.txt", "\n".join(lines) + "\n")
