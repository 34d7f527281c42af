"""How much of an error no estimate can avoid: the scatter of measurements themselves.

    python tools/noise_floor.py

Two ways. Rows that a table has twice, of one kernel, differ by their noise alone. And where three backends call the
same library (bfloat16 GEMM is cuBLAS in all of them), the differences of two tables, each from the straight line
between its neighbours along m, hold the noise of both: three pairs give the three noises.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy

from oplib.op import kind
from perfdb.foreign import find_table
from perfdb.row_choice import fingerprint_of, key_of
from perfdb.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference" / "tables"
REPEATED = (
    ("h100_sxm", "vllm", "context_attention"),
    ("h100_sxm", "sglang", "context_mla"),
    ("h100_sxm", "sglang", "generation_mla"),
)
BACKENDS = ("trtllm", "vllm", "sglang")


def repeated(path: Path, name: str) -> numpy.ndarray:
    """Deviation of one row, in log latency, from each pair of repetitions in a table."""
    table = read_table(path, kind(name))
    both = key_of(table) * (int(fingerprint_of(table).max()) + 1) + fingerprint_of(table)
    order = numpy.argsort(both, kind="stable")
    same = both[order][1:] == both[order][:-1]
    return numpy.abs(numpy.diff(numpy.log(table.latency[order])))[same] / numpy.sqrt(2)


def gemm(system: str, backend: str) -> dict[tuple[int, int, int], float]:
    """log latency by n, k, m of the bfloat16 GEMM."""
    table = read_table(find_table(kind("gemm"), system=system, backend=backend), kind("gemm"))
    chosen = table.take(table.columns["dtype"] == "bfloat16")
    sizes = (chosen.columns[name].astype(int).tolist() for name in ("n", "k", "m"))
    return dict(zip(zip(*sizes, strict=True), numpy.log(chosen.latency), strict=True))


def scatter(one: Mapping, other: Mapping) -> float:
    """Squared median size of the difference of two tables from its line between neighbours in m, as of one row."""
    places = numpy.array(sorted(one.keys() & other.keys()))
    apart = numpy.array([one[tuple(p)] - other[tuple(p)] for p in places.tolist()])
    inside = (places[1:-1, :2] == places[:-2, :2]).all(1) & (
        places[1:-1, :2] == places[2:, :2]
    ).all(1)
    along = numpy.log(places[:, 2])
    share = (along[1:-1] - along[:-2]) / numpy.where(inside, along[2:] - along[:-2], 1.0)
    rest = apart[1:-1] - (1 - share) * apart[:-2] - share * apart[2:]
    size = numpy.sqrt(1 + (1 - share) ** 2 + share**2)
    return float(numpy.median(numpy.abs(rest / size)[inside]) ** 2)


def main() -> None:
    for system, backend, name in REPEATED if REFERENCE.is_dir() else ():
        path = find_table(kind(name), system=system, backend=backend, data=REFERENCE)
        median, p90 = 100 * numpy.percentile(repeated(path, name), [50, 90])
        print(f"{system}/{backend}/{name}: a row deviates by {median:.2f} %, p90 {p90:.2f} %")
    for system in ("h100_sxm", "h200_sxm", "b200_sxm"):
        tables = {backend: gemm(system, backend) for backend in BACKENDS}
        pairs = {
            frozenset(pair): scatter(tables[pair[0]], tables[pair[1]])
            for pair in combinations(BACKENDS, 2)
        }
        for backend in BACKENDS:
            own = sum(value if backend in pair else -value for pair, value in pairs.items()) / 2
            print(
                f"{system}/{backend}/gemm bfloat16: {100 * max(own, 0) ** 0.5:.1f} % in the median"
            )


if __name__ == "__main__":
    main()
