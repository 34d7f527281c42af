"""Collectives over groups that a table lacks: its rows over other groups say what they take, and say so."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from oplib.collective import Collective
from oplib.errors import PerfDataNotAvailableError
from oplib.op import kind, op_kinds
from perfdb import group_sizes
from perfdb.database import PerfDatabase
from perfdb.group_sizes import Growth, growths, nearest_sizes
from perfdb.speed_of_light import bound_ms
from perfdb.systems import load_system
from tools.fit_group_sizes import fit, pairs

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

SYSTEM, KIND = "h200_sxm", kind("all_reduce")
assert isinstance(KIND, Collective)
STATED = Growth(rounds=0.5, moves=1.0, uncertainty=0.1, source="made for tests")
SIZES = tuple(1 << i for i in range(8, 31))


def alone_ms(size: int, gpus: int, growth: Growth = STATED) -> float:
    """A time over two GPUs, and what the growth makes of it over more."""
    two = 0.006 + 1.7 * bound(size, 2)
    return two * float(growth.scale(KIND, 2, gpus, numpy.asarray(bound(size, 2) / two)))


def bound(size: int, gpus: int) -> float:
    params = KIND.complete({"num_gpus": gpus})
    return float(bound_ms(KIND, params, {"bytes": size}, load_system(SYSTEM)))


def database(folder: Path, *gpus: int, mode: str = "hybrid", system: str = SYSTEM) -> PerfDatabase:
    lines = [
        "framework,version,device,op_name,kernel_source,nccl_dtype,num_gpus,message_size,latency"
    ]
    lines += [
        f"toy,1,H,all_reduce,NCCL,half,{n},{size // 2},{alone_ms(size, n)!r}" for n in gpus for size in SIZES
    ]  # fmt: skip
    path = folder / system / "nccl" / "1.0" / "nccl_perf.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return PerfDatabase.load(system=system, backend="nccl", mode=mode, data=folder)


@pytest.fixture(autouse=True)
def stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_sizes, "growths", lambda: {"all_reduce": STATED})


@pytest.mark.parametrize("gpus", [3, 4, 8])
@pytest.mark.parametrize("size", [256, 1 << 20, 3 << 20, 1 << 30])
def test_rows_over_two_say_what_more_take(tmp_path: Path, gpus: int, size: int) -> None:
    """The stated growth of the measured time, its error with that of a doubling, and word of it."""
    prices = database(tmp_path, 2)
    found = prices.price(KIND, KIND.complete({"num_gpus": gpus}), {"bytes": size})
    assert float(found) == pytest.approx(alone_ms(size, gpus), rel=0.02)
    assert found.origin == "empirical"
    assert found.uncertainty >= 1.1 ** numpy.log2(gpus / 2) - 1
    assert prices.borrowed == {"2 GPUs": {"all_reduce": None}}


def test_many_messages_at_once(tmp_path: Path) -> None:
    """An array of sizes gives what each gives alone."""
    prices, params = database(tmp_path, 2), KIND.complete({"num_gpus": 4})
    sizes = numpy.array([256, 5000, 1 << 22])
    found = prices.price(KIND, params, {"bytes": sizes})
    alone = [float(prices.price(KIND, params, {"bytes": int(size)})) for size in sizes]
    numpy.testing.assert_allclose(found.latency, alone, rtol=1e-12)


def test_what_is_measured_goes_first(tmp_path: Path) -> None:
    """Rows over as many GPUs answer; `silicon` takes no others, and a group of two servers is another thing."""
    params, dims = KIND.complete({"num_gpus": 4}), {"bytes": 1 << 20}
    assert database(tmp_path, 2, 4).price(KIND, params, dims).origin == "measured"
    with pytest.raises(PerfDataNotAvailableError, match="all_reduce"):
        database(tmp_path, 2, mode="silicon").price(KIND, params, dims)
    apart = database(tmp_path, 2).price(KIND, KIND.complete({"num_gpus": 16}), dims)
    assert apart.origin == "sol"


def test_over_pcie_a_group_says_nothing_of_a_larger_one(tmp_path: Path) -> None:
    """Where no switch joins the GPUs, the stated efficiency answers."""
    prices = database(tmp_path, 2, system="l40s")
    found = prices.price(KIND, KIND.complete({"num_gpus": 8}), {"bytes": 1 << 20})
    assert not prices.borrowed
    assert found.uncertainty > 0.5


def test_the_nearest_group_is_asked() -> None:
    assert nearest_sizes(4, [1, 2, 4, 8, 16]) == [8, 2, 16]
    assert nearest_sizes(8, [2, 4]) == [4, 2]


def test_kinds_that_are_stated_are_collectives() -> None:
    """Each with an error, a source and exponents that let times grow."""
    for name, growth in growths().items():
        assert isinstance(op_kinds()[name], Collective)
        assert 0 < growth.uncertainty < 1
        assert growth.rounds >= 0
        assert growth.moves >= 0
        assert growth.source


def test_the_fit_finds_what_made_the_rows(tmp_path: Path) -> None:
    """Pairs of groups of a table, and the exponents that its rows were made with."""
    database(tmp_path, 2, 4, 8)
    found = numpy.array(list(pairs(KIND, SYSTEM, "", tmp_path)))
    assert len(found) == 3 * len(SIZES)
    of_two = found[found[:, 0] == 2]
    rounds, moves, error = fit(KIND, of_two)
    assert (rounds, moves) == pytest.approx((STATED.rounds, STATED.moves), abs=0.03)
    assert error < 0.01
