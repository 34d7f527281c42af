"""GPU facts: one file per system in perfdb/systems/, each number with its unit and its source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from oplib.errors import UnknownSystemError

# What one of each is in FLOP/s, bytes per second, bytes, W or pieces; MiB for caches, whose sizes
# are powers of two.
UNITS: Mapping[str, float] = MappingProxyType(
    {
        "TFLOP/s": 1e12,
        "TB/s": 1e12,
        "GB/s": 1e9,
        "GB": 1e9,
        "MiB": 2.0**20,
        "W": 1.0,
        "count": 1.0,
    }
)

_FOLDER = Path(__file__).with_name("systems")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number as its source states it; `note` says how it follows where it is derived."""

    value: float
    unit: str
    source: str
    note: str = ""

    @property
    def base(self) -> float:
        """The value in FLOP/s, bytes per second, bytes, W or pieces."""
        return self.value * UNITS[self.unit]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One GPU in its server. `peak` is dense FLOP/s by compute dtype; links are per direction.

    `switch_reduces` says that the switch between GPUs adds and copies what it passes on (NVLink SHARP); `joins` how
    many GPUs the interconnect reaches, 0 where that depends on the server; `network` what joins them to others, and its
    rate for each GPU, None where no vendor states one.
    """

    id: str
    name: str
    architecture: str
    compute_capability: str
    peak: Mapping[str, Quantity]
    memory_bandwidth: Quantity
    memory_capacity: Quantity
    l2_capacity: Quantity
    num_sms: Quantity
    tdp: Quantity
    interconnect: str
    interconnect_bw_one_way: Quantity
    switch_reduces: bool
    joins: int
    host_link: str
    host_bw_one_way: Quantity
    network: str = ""
    network_bw_one_way: Quantity | None = None

    def quantities(self) -> dict[str, Quantity]:
        """Every number by name, peaks as `peak.<dtype>`."""
        fields = {name: getattr(self, name) for name in self.__slots__}  # walks the record itself
        numbers = {name: field for name, field in fields.items() if isinstance(field, Quantity)}
        return {f"peak.{dtype}": number for dtype, number in self.peak.items()} | numbers


def list_systems() -> list[str]:
    """The names that `load_system` knows, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def load_system(name: str) -> System:
    """The facts of the system `name`, the stem of a file in perfdb/systems/."""
    known = list_systems()
    if name not in known:
        raise UnknownSystemError(f"Unknown system {name!r}.", f"Known: {', '.join(known)}.")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return parse_system(name, tomllib.loads(text))
    except (KeyError, ValueError) as error:
        raise ValueError(f"perfdb/systems/{name}.toml: {error}") from error


def parse_system(name: str, data: Mapping[str, Any]) -> System:  # Any: what a TOML file holds
    """The record a system file describes; a fact without a known unit and source is refused."""
    sources = {key: _cite(source) for key, source in data["sources"].items()}

    def read(table: str, key: str) -> Quantity:
        entry = data[table][key]
        unknown = entry.keys() - {"value", "unit", "source", "note"}
        if unknown:
            raise ValueError(f"{table}.{key}: unknown fields {sorted(unknown)}")
        if entry["unit"] not in UNITS:
            raise ValueError(f"{table}.{key}: unit {entry['unit']!r} is not one of {list(UNITS)}")
        if entry["source"] not in sources:
            raise ValueError(f"{table}.{key}: source {entry['source']!r} is not in [sources]")
        return Quantity(
            value=float(entry["value"]),
            unit=entry["unit"],
            source=sources[entry["source"]],
            note=entry.get("note", ""),
        )

    return System(
        id=name,
        name=data["name"],
        architecture=data["architecture"],
        compute_capability=data["compute_capability"],
        peak=MappingProxyType({dtype: read("peak", dtype) for dtype in data["peak"]}),
        memory_bandwidth=read("memory", "bandwidth"),
        memory_capacity=read("memory", "capacity"),
        l2_capacity=read("memory", "l2_capacity"),
        num_sms=read("chip", "num_sms"),
        tdp=read("chip", "tdp"),
        interconnect=data["interconnect"]["kind"],
        interconnect_bw_one_way=read("interconnect", "bw_one_way"),
        switch_reduces=data["interconnect"].get("switch_reduces", False),
        joins=data["interconnect"].get("joins", 0),
        host_link=data["host_link"]["kind"],
        host_bw_one_way=read("host_link", "bw_one_way"),
        network=data["network"]["kind"] if "network" in data else "",
        network_bw_one_way=read("network", "bw_one_way") if "network" in data else None,
    )


def _cite(source: Mapping[str, str]) -> str:
    """One line: the address, the document and its date."""
    return f"{source['url']} ({source['document']}, {source['date']})"
