"""Coordinates that sizes imply: wide rows of a norm have times of their own, between rows and at them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from oplib.op import kind
from oplib.registry import kind as kind_of
from perfdb.database import PerfDatabase
from perfdb.performance import PerformanceArray
from perfdb.table_file import Measurement, write_table
from perfdb.tables import read_table

NORM, PLAIN = "add+mean+mul+pow+rsqrt", "mul+silu"
WIDE, NARROW = 16384, 256
KIND = kind("pointwise")


def norm(width: int, rows: int) -> dict[str, int]:
    return {"read": 2 * width * (rows + 1), "written": 2 * width * rows}


def sizes() -> Iterator[tuple[str, dict[str, int]]]:
    for octave in range(4, 12):
        yield NORM, norm(WIDE, 2**octave)
        yield NORM, norm(NARROW, 2 ** (octave + 6))
        yield PLAIN, {"read": 4 * WIDE * 2**octave, "written": 2 * WIDE * 2**octave}


def time_of(functions: str, dims: dict[str, int]) -> float:
    """ms: three times as much for wide rows."""
    wide = KIND.imply({"functions": functions, "dtype": "bfloat16"}, dims)["width"] >= WIDE
    return 0.004 + sum(dims.values()) / 3e9 * (3 if wide else 1)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> PerfDatabase:
    data = tmp_path_factory.mktemp("data")
    path = data / "h200_sxm" / "toy" / "1.0" / "pointwise_perf.txt"
    write_table(Path(path), KIND, [
        Measurement(
            params={"functions": functions, "dtype": "bfloat16"}, dims=dims,
            latency=time_of(functions, dims), framework="toy", version="1.0", device="H200",
            kernel_source="compiled",
        )
        for functions, dims in sizes()
    ])  # fmt: skip
    return PerfDatabase.load(system="h200_sxm", backend="toy", mode="silicon", data=data)


def price(db: PerfDatabase, functions: str, dims: dict[str, int]) -> float:
    params = KIND.complete({"functions": functions, "dtype": "bfloat16"})
    return float(db.price(KIND, params, dims))


def test_measured_rows_are_returned(db: PerfDatabase) -> None:
    for functions, dims in sizes():
        assert price(db, functions, dims) == pytest.approx(time_of(functions, dims), rel=1e-6)


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_between_rows_the_width_counts(db: PerfDatabase, width: int) -> None:
    """As many bytes take as long as rows of the same width do."""
    for rows in (48, 100, 700):
        dims = norm(width, rows * WIDE // width)
        assert price(db, NORM, dims) == pytest.approx(time_of(NORM, dims), rel=0.12)


def test_arrays_are_as_single_prices(db: PerfDatabase) -> None:
    """Sizes of several widths at once are told apart, in any shape."""
    params = KIND.complete({"functions": NORM, "dtype": "bfloat16"})
    each = [norm(width, rows) for width in (WIDE, NARROW, 4096) for rows in (40, 64, 1024)]
    dims = {name: numpy.array([one[name] for one in each]).reshape(3, 3) for name in KIND.dims}
    found = db.price(KIND, params, dims)
    assert isinstance(found, PerformanceArray)
    assert numpy.asarray(found).ravel().tolist() == [price(db, NORM, one) for one in each]
    entry = db.entry(KIND, params, dims)
    assert entry.latency is not None
    assert entry.latency.ranks(dims).tolist() == entry.latency.at(dims)[2].tolist()
    assert entry.latency.nearest(norm(WIDE, 65))["width"] == WIDE


def test_rows_know_what_they_imply(db: PerfDatabase) -> None:
    table = db.table(KIND)
    assert not isinstance(table, str)
    again = read_table(table.path, kind_of("pointwise"))
    chosen = again.take(again.params["functions"].equal(NORM))
    assert set(chosen.columns["width"]) == {WIDE, NARROW}
    assert set(again.columns["width"]) == {WIDE, NARROW, 1}
    assert set(again.columns["tensors"]) == {2, 3}
