"""How much of an error no estimate can avoid: the scatter of measurements themselves.

    python tools/noise_floor.py

Six ways. Rows that a table has twice, of one kernel, differ by their noise alone. Where three backends call the same
library (bfloat16 GEMM is cuBLAS in all of them), the differences of two tables, each from the straight line between
its neighbours along m, hold the noise of both: three pairs give the three noises; and how far a row is above the
median of the three says how often it was disturbed. Decode with a window does the same work at any p beyond it, so its
rows there repeat one measurement. Times that lie on multiples of a tick were read from a clock no finer than that. And
a table of a GPU whose clock is fine, with its times brought to the length of the other GPU's and rounded to the ticks
of that one's clock, shows what the clock alone does to an error. Last, what estimates at the same places of two tables
are off by has in common what kernels do there; the rest is each table's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy

from oplib.errors import TraceModelError
from oplib.op import kind
from perfdb.efficiency import Group
from perfdb.folds import FOLDS
from perfdb.foreign import find_table
from perfdb.row_choice import fingerprint_of, key_of
from perfdb.tables import read_table
from perfdb.validate import estimate_hidden, large_groups, validate

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference" / "tables"
REPEATED = (
    ("h100_sxm", "vllm", "context_attention"),
    ("h100_sxm", "sglang", "context_mla"),
    ("h100_sxm", "sglang", "generation_mla"),
)
BACKENDS = ("trtllm", "vllm", "sglang")
SYSTEMS = ("h100_sxm", "h200_sxm", "b200_sxm")
TIMED = ("gemm", "context_attention", "generation_attention", "context_mla", "generation_mla")
COARSE, FINE = "b200_sxm", "h200_sxm"  # the GPUs whose clocks are compared
SHORT_US = 40.0  # of a kernel that a tick of microseconds is much of
ROUNDED_US = 80.0  # longer times are means of several readings
PERIODS = numpy.arange(0.3, 4.5, 0.002)  # us
CONCENTRATED = 0.3  # of a resultant of length 1; 0.01 where times lie anywhere
DRAW, ASKED = numpy.array([0.7548, 0.5698, 0.4302]) * 100, 0.1  # which places: about a tenth
SKIPPED = 0.02  # log ratio over all p: a kernel that takes longer at a larger p does more work


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


def above(tables: Mapping[str, Mapping], backend: str) -> numpy.ndarray:
    """log of the latency of each row over the median of all backends' at its place."""
    places = set.intersection(*(set(table) for table in tables.values()))
    return numpy.array(
        [tables[backend][p] - sorted(table[p] for table in tables.values())[1] for p in places]
    )


def windowed(groups: Sequence[Group]) -> Iterator[tuple[Group, list[numpy.ndarray]]]:
    """Of each group of decode with a window, the rows [n] that do the same work, set by set, along p."""
    for group in groups:
        window, rows = group.shared["window"], group.rows
        column = list(rows.kind.coordinates).index("p")
        others = numpy.unique(
            numpy.delete(group.points, column, axis=1).round(6), axis=0, return_inverse=True
        )[1]
        beyond = rows.dims["p"] >= window
        order = numpy.lexsort((rows.dims["p"], others.ravel()))
        order = order[beyond[order]]
        starts = numpy.flatnonzero(numpy.diff(others.ravel()[order], prepend=-1))
        sets = [one for one in numpy.split(order, starts[1:]) if len(one) > 2] if window else []
        if (
            sets
            and abs(
                numpy.median([numpy.log(rows.latency[s[-1]] / rows.latency[s[0]]) for s in sets])
            )
            < SKIPPED
        ):
            yield group, sets


def from_the_others(group: Group, sets: Sequence[numpy.ndarray]) -> numpy.ndarray:
    """Relative difference of each row from the geometric mean of the others that do the same work."""
    found = []
    for one in sets:
        log = numpy.log(group.rows.latency[one])
        found.append(numpy.expm1((log.sum() - log) / (len(log) - 1) - log))
    return numpy.abs(numpy.concatenate(found))


def tick_of(groups: Sequence[Group]) -> tuple[float, float]:
    """The period, us, at whose multiples short times gather most, and how much they do, 0 to 1."""
    us = numpy.concatenate([1e3 * group.rows.latency for group in groups])
    us = us[us < SHORT_US]
    length = [abs(numpy.exp(2j * numpy.pi * us / period).mean()) for period in PERIODS]
    best = int(numpy.argmax(length))
    return float(PERIODS[best]), float(length[best])


def timed(group: Group, us: numpy.ndarray) -> Group:
    """A group with other times."""
    return replace(group, ratios=numpy.log(us / 1e3 / (group.bounds + group.launch)))


def shortened(fine: Sequence[Group], coarse: Sequence[Group]) -> float:
    """How long rows of one GPU take next to the same of another, in the median."""
    found = []
    for one in fine:
        times = dict(zip(map(tuple, one.points.round(6).tolist()), one.rows.latency, strict=True))
        for other in coarse:
            if dict(other.shared) == dict(one.shared):
                places = map(tuple, other.points.round(6).tolist())
                found += [
                    t / times[p]
                    for p, t in zip(places, other.rows.latency, strict=True)
                    if p in times
                ]
    return float(numpy.median(found)) if found else 1.0


def error(groups: Sequence[Group], fold: str) -> str:
    *_, one = validate(groups, fold, seed=0, most=1000)
    return f"{100 * one['median']:.1f} %, p90 {100 * one['p90']:.1f} %"


def residuals(group: Group) -> dict[tuple[float, ...], float]:
    """How far off, in log latency, the estimate of a row is that knows all others, by its place; the same places of
    every table. The twentieth that is furthest off on either side counts as at its edge."""
    fold = FOLDS["point"](group)
    drawn = numpy.modf(numpy.abs(group.points[fold.asked] @ DRAW))[0] < ASKED
    asked = fold.asked[drawn]
    off = estimate_hidden(group, fold, asked).value - group.ratios[asked]
    off = numpy.clip(off, *numpy.percentile(off, [5, 95]))
    return dict(zip(map(tuple, group.points[asked].round(6).tolist()), off, strict=True))


def correlation(one: Mapping, other: Mapping) -> float:
    places = sorted(one.keys() & other.keys())
    return float(numpy.corrcoef([one[p] for p in places], [other[p] for p in places])[0, 1])


def groups_of(system: str, backend: str, name: str) -> list[Group]:
    """Groups of a table; none where there is no such table."""
    data = REFERENCE if system == "h100_sxm" else None
    try:
        path = find_table(kind(name), system=system, backend=backend, data=data)
        return large_groups(path, name, system)
    except TraceModelError:
        return []


def print_repeated() -> None:
    for system, backend, name in REPEATED if REFERENCE.is_dir() else ():
        path = find_table(kind(name), system=system, backend=backend, data=REFERENCE)
        median, p90 = 100 * numpy.percentile(repeated(path, name), [50, 90])
        print(f"{system}/{backend}/{name}: a row deviates by {median:.2f} %, p90 {p90:.2f} %")


def print_libraries() -> None:
    for system in SYSTEMS:
        tables = {backend: gemm(system, backend) for backend in BACKENDS}
        pairs = {
            frozenset(pair): scatter(tables[pair[0]], tables[pair[1]])
            for pair in combinations(BACKENDS, 2)
        }
        for backend in BACKENDS:
            own = sum(value if backend in pair else -value for pair, value in pairs.items()) / 2
            tail = 100 * numpy.expm1(numpy.percentile(above(tables, backend), [75, 90, 95]))
            print(
                f"{system}/{backend}/gemm bfloat16: {100 * max(own, 0) ** 0.5:.1f} % in the median; "
                f"a quarter, a tenth, a twentieth of the rows is {', '.join(f'{t:.0f}' for t in tail)} % "
                "and more above the median of the three"
            )


def print_windows() -> None:
    for system in SYSTEMS:
        for backend in BACKENDS:
            found = list(windowed(groups_of(system, backend, "generation_attention")))
            if found:
                off = numpy.concatenate([from_the_others(*one) for one in found])
                median, p90 = 100 * numpy.percentile(off, [50, 90])
                ours = error([group for group, _ in found], "point")
                print(
                    f"{system}/{backend}: {len(off)} rows of decode beyond a window: {median:.1f} %, p90 {p90:.1f} % "
                    f"from the mean of the others that do the same work; estimates of these tables: {ours}"
                )


def print_clocks() -> None:
    for backend in BACKENDS:
        for name in TIMED:
            coarse, fine = (groups_of(system, backend, name) for system in (COARSE, FINE))
            if not coarse or not fine:
                continue
            (tick, gathered), (_, other) = tick_of(coarse), tick_of(fine)
            print(
                f"{backend}/{name}: {COARSE} in ticks of {tick:.3f} us ({gathered:.2f}); {FINE} {other:.2f}"
            )
            if gathered < CONCENTRATED or tick < 1.0:
                continue
            ratio = shortened(fine, coarse)
            us = [ratio * 1e3 * group.rows.latency for group in fine]
            ticked = [
                numpy.where(t < ROUNDED_US, tick * numpy.maximum(numpy.round(t / tick), 1), t)
                for t in us
            ]
            plain, rounded = (
                [timed(g, t) for g, t in zip(fine, times, strict=True)] for times in (us, ticked)
            )
            for fold in ("point", "site"):
                print(
                    f"  {fold}: {COARSE} {error(coarse, fold)}; {FINE}, times {ratio:.2f} as long, "
                    f"{error(plain, fold)}; these in ticks {error(rounded, fold)}"
                )


def print_shared() -> None:
    for system in SYSTEMS:
        found = {
            (backend, group.shared["dtype"]): residuals(group)
            for backend in BACKENDS
            for group in groups_of(system, backend, "gemm")
        }
        same: dict[str, list[float]] = {}
        for (first, one), (second, other) in combinations(found.items(), 2):
            name = first[1] if first[1] == second[1] else "two types"
            same.setdefault(name, []).append(correlation(one, other))
        spans = [f"{name} {min(found):.2f} to {max(found):.2f}" for name, found in same.items()]
        print(f"{system}/gemm: residuals of two tables correlate by {', '.join(spans)}")


def main() -> None:
    print_repeated()
    print_libraries()
    print_windows()
    print_clocks()
    print_shared()


if __name__ == "__main__":
    main()
