"""Stated efficiencies: the most particular entry counts, and our own rows are near what is stated of their backend."""

from __future__ import annotations

import numpy
import pytest

from oplib.errors import TraceModelError
from oplib.op import kind, op_kinds
from perfdb import empirical
from perfdb.database import PerfDatabase
from perfdb.empirical import Efficiency, efficiencies, efficiency_of, entries, stated_ms
from perfdb.foreign import OWN_DATA, find_table
from perfdb.speed_of_light import bounds_ms
from perfdb.systems import load_system
from perfdb.tables import Table, read_table

SYSTEM, BACKEND = "h100_sxm", "torch"
MAMBA2 = kind("mamba2")
CHUNK = 100  # no table has such rows
SCAN = MAMBA2.complete(
    {
        "d_inner": 5120,
        "d_state": 128,
        "num_heads": 80,
        "head_dim": 64,
        "n_groups": 1,
        "chunk_size": CHUNK,
        "dtype": "bfloat16",
        "state_dtype": "float32",
        "phase": "context",
    }
)


def own_tables() -> list[Table]:
    found = []
    for one in op_kinds().values():
        try:
            path = find_table(one, system=SYSTEM, backend=BACKEND, data=OWN_DATA)
            found.append(read_table(path, one))
        except TraceModelError:
            continue
    return found


def ratios(table: Table) -> numpy.ndarray:
    """Stated over measured time, by row."""
    one, system = table.kind, load_system(SYSTEM)
    found = numpy.full(len(table), numpy.nan)
    for params, places in table.split(list(table.params)):
        dims = {name: table.dims[name][places].astype(float) for name in one.dims}
        found[places] = stated_ms(one, one.complete(params), dims, system, backend=BACKEND)[0]
    return found / table.latency


def stated(number: float) -> Efficiency:
    return Efficiency(compute=1, memory=1, launch_ms=number, uncertainty=0.1, source="")


@pytest.mark.parametrize(
    ("names", "backend", "expected"),
    [
        (["other", "mamba2", "mamba2.torch", "mamba2.torch.context"], "torch", 3),
        (["other", "mamba2", "mamba2.torch", "mamba2.torch.generation"], "torch", 2),
        (["other", "mamba2", "mamba2.torch.generation"], "torch", 1),
        (["other", "mamba2", "mamba2.torch", "mamba2.torch.context"], "vllm", 1),
        (["other", "mamba2", "mamba2.torch", "mamba2.torch.context"], "", 1),
        (["other", "mamba2.torch.context"], "vllm", 0),
    ],
)
def test_the_most_particular_entry_counts(monkeypatch, names, backend, expected):
    known = {name: stated(number) for number, name in enumerate(names)}
    monkeypatch.setattr(empirical, "efficiencies", lambda: known)
    assert efficiency_of(MAMBA2, SCAN, backend).launch_ms == expected


def test_tables_within_tables_are_entries_of_their_own():
    """A kind may have one for a backend and none of its own."""
    found = entries({"a": {"x": 1, "t": {"x": 2, "context": {"x": 3}}}, "b": {"t": {"x": 4}}})
    assert found == {
        ("a",): {"x": 1},
        ("a", "t"): {"x": 2},
        ("a", "t", "context"): {"x": 3},
        ("b", "t"): {"x": 4},
    }


def test_entries_name_kinds_and_phases():
    """What no op asks for would be a mistake of spelling."""
    for name, entry in efficiencies().items():
        names = name.split(".")
        assert names[0] in op_kinds() or name == "other"
        assert entry.backend == (names[1] if names[1:] else "")
        assert len(names) < 3 or names[2] in ("context", "generation")


@pytest.mark.parametrize("table", own_tables(), ids=lambda table: table.kind.name)
def test_our_rows_are_near_what_is_stated(table):
    """In the median within 1.5 times, in each phase: `tools/fit_empirical.py` fits an entry where they are not."""
    found = ratios(table)
    phases = (
        table.params["phase"].decode() if "phase" in table.params else numpy.full(len(table), "")
    )
    for phase in set(phases):
        rows = found[(phases == phase) & numpy.isfinite(found)]
        if len(rows) >= 40:
            assert 1 / 1.5 < numpy.median(rows) < 1.5, phase


def test_a_backend_is_stated_by_whole_chunks():
    """1 token beyond 10 chunks of 100 is 11 chunks there; the entry of all backends takes the tokens asked."""
    system = load_system(SYSTEM)
    asked, whole = {"b": 4, "s": 10 * CHUNK + 1}, {"b": 4, "s": 11 * CHUNK}
    one = stated_ms(MAMBA2, SCAN, asked, system, backend=BACKEND)
    assert one == stated_ms(MAMBA2, SCAN, whole, system, backend=BACKEND)
    other = efficiency_of(MAMBA2)
    _, compute, memory = bounds_ms(MAMBA2, SCAN, asked, system)
    assert stated_ms(MAMBA2, SCAN, asked, system)[0] == other.latency_ms(compute, memory)


@pytest.mark.parametrize("system", ["h100_sxm", "h200_sxm"])
def test_a_scan_without_rows_costs_what_eager_code_takes(system):
    """1x2048 tokens take 2.8 ms on the H100 in chunks of 256; no bound is above 0.03 ms."""
    dims = {"b": 1, "s": 2048}
    found = PerfDatabase.load(system=system, backend=BACKEND).price(MAMBA2, SCAN, dims)
    assert (found.origin, 1 < found.latency < 3) == ("empirical", True)
    elsewhere = PerfDatabase.load(system=system, mode="empirical").price(MAMBA2, SCAN, dims)
    assert elsewhere.latency < 0.04
