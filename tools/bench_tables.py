"""Print how far interpolation is off on measured tables, beside plain brackets and the published figures.

Without arguments: the reference tables, where they are at hand, and those of the installed aiconfigurator-core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy

from oplib.errors import InvalidInputError, PerfDataNotAvailableError, TraceModelError
from oplib.op import kind, op_kinds
from perfdb.efficiency import Group
from perfdb.folds import FOLDS, line_of
from perfdb.foreign import data_folder, find_tables
from perfdb.validate import draw, large_groups, validate

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference" / "tables"
BACKENDS = ("trtllm", "vllm", "sglang")
#: Median and 90th percentile that AIConfigurator publishes for its interpolation of these ops.
PUBLISHED = {
    ("gemm", "point"): (0.0487, 0.156),
    ("gemm", "site"): (0.0363, 0.147),
    ("gemm", "frontier"): (0.089, 0.51),
    ("context_attention", "point"): (0.0200, 0.097),
    ("context_mla", "point"): (0.0219, 0.100),
    ("generation_attention", "point"): (0.011, None),
    ("generation_mla", "point"): (0.012, None),
    ("context_dsa_module", "point"): (0.054, 0.27),
}


def bracket(group: Group, asked: numpy.ndarray) -> numpy.ndarray:
    """Relative errors at `asked` of the straight line between two neighbours in the same line."""
    along, line = line_of(group)
    place = numpy.exp2(group.points[:, along])
    time_ms = group.rows.latency
    values, code = numpy.unique(place.round(6), return_inverse=True)
    key = line * len(values) + code  # one for rows at one place, the next for those beside them
    order = numpy.argsort(key, kind="stable")
    low = order[numpy.searchsorted(key[order], key[asked], "left") - 1]
    high = order[numpy.searchsorted(key[order], key[asked], "right")]
    share = (place[asked] - place[low]) / (place[high] - place[low])
    return (time_ms[low] * (1 - share) + time_ms[high] * share) / time_ms[asked] - 1


def brackets(groups: Sequence[Group], seed: int, most: int) -> tuple[float, float]:
    """Median and 90th percentile of `bracket` over the rows that the fold `point` asks."""
    asked = draw([FOLDS["point"](group) for group in groups], seed=seed, most=most)
    size = numpy.abs(numpy.concatenate(list(map(bracket, groups, asked))))
    return float(numpy.median(size)), float(numpy.percentile(size, 90))


def percent(value: float | None, width: int = 6) -> str:
    return " " * (width - 1) + "-" if value is None else f"{100 * value:{width}.1f}"


def tables(
    folder: Path, systems: Sequence[str], kinds: Sequence[str]
) -> Iterator[tuple[str, list[Group]]]:
    """Label and groups of each kind's newest table of a folder that has rows for a fold."""
    seen = set()
    for system, backend, name in product(systems, BACKENDS, kinds):
        try:
            paths = find_tables(kind(name), system=system, backend=backend, data=folder)
        except TraceModelError:
            continue
        for path in paths:
            try:
                groups = large_groups(path, name, system)
            except TraceModelError:
                continue
            if groups and (name, path) not in seen:  # NCCL's serve every backend
                seen.add((name, path))
                yield "/".join((system, *path.parts[-3:-1], name)), groups
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", help="a folder of tables; repeat it")
    parser.add_argument("--systems", nargs="+", default=["h200_sxm", "b200_sxm"])
    parser.add_argument("--kinds", nargs="+", default=measured_kinds())
    parser.add_argument(
        "--folds", nargs="+", choices=list(FOLDS), default=["point", "site", "frontier"]
    )
    parser.add_argument("--most", type=int, default=1000, help="rows per table and fold")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    places = [(folder, options.systems) for folder in options.data or []]
    if not options.data:
        if REFERENCE.is_dir():
            places.append((REFERENCE, ["h100_sxm"]))
        try:
            places.append((data_folder(), options.systems))
        except PerfDataNotAvailableError as error:
            print(error)
    print(
        "median and 90th percentile of the error in %, shares of truths within 1 and 2 sigma in %"
    )
    print(
        f"{'table':58} {'fold':9}   ours          bracket       published     1 sig  2 sig      s"
    )
    for folder, systems in places:
        for label, groups in tables(folder, systems, options.kinds):
            for fold in options.folds:
                print_fold(label, groups, fold, options)


def print_fold(label: str, groups: Sequence[Group], fold: str, options: argparse.Namespace) -> None:
    """One line; none where the fold asks nothing of these groups."""
    start = time.perf_counter()
    try:
        *_, one = validate(groups, fold, seed=options.seed, most=options.most)
    except InvalidInputError:
        return
    plain = (None, None)
    if fold == "point":
        plain = brackets(groups, options.seed, options.most)
    published = PUBLISHED.get((label.rpartition("/")[2], fold), (None, None))
    cells = [one["median"], one["p90"], *plain, *published]
    cells += [one["within_1_sigma"], one["within_2_sigma"]]
    seconds = time.perf_counter() - start
    print(f"{label:58} {fold:9}", *map(percent, cells), f"{seconds:6.1f}", flush=True)


def measured_kinds() -> list[str]:
    """Kinds whose tables have coordinates."""
    return [name for name, one in op_kinds().items() if one.coordinates]


if __name__ == "__main__":
    main()
