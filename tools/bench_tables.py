"""Print how far interpolation is off on measured tables, beside plain brackets and the published figures.

Without arguments: the reference tables, where they are at hand, and those of the installed aiconfigurator-core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy

from oplib.errors import PerfDataNotAvailableError
from perfdb.efficiency import LAUNCH_MS, Group
from perfdb.folds import FOLDS, line_of
from perfdb.foreign import data_folder
from perfdb.systems import list_systems
from perfdb.validate import draw, large_groups, validate

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference" / "tables"
TABLES = ("gemm", "context_attention", "generation_attention", "context_mla", "generation_mla")
#: Median and 90th percentile that AIConfigurator publishes for its interpolation of these ops.
PUBLISHED = {
    ("gemm", "point"): (0.0487, 0.156),
    ("gemm", "site"): (0.0363, 0.147),
    ("gemm", "frontier"): (0.089, 0.51),
    ("context_attention", "point"): (0.0200, 0.097),
    ("context_mla", "point"): (0.0219, 0.100),
    ("generation_attention", "point"): (0.011, None),
    ("generation_mla", "point"): (0.012, None),
}


def bracket(group: Group, asked: numpy.ndarray) -> numpy.ndarray:
    """Relative errors at `asked` of the straight line between the two neighbours in the same line."""
    along, line = line_of(group)
    place = numpy.exp2(group.points[:, along])
    time_ms = (group.bounds + LAUNCH_MS) * numpy.exp(group.ratios)
    order = numpy.lexsort((place, line))
    at = numpy.empty(len(order), dtype=int)
    at[order] = numpy.arange(len(order))
    low, high = order[at[asked] - 1], order[at[asked] + 1]
    share = (place[asked] - place[low]) / (place[high] - place[low])
    return (time_ms[low] * (1 - share) + time_ms[high] * share) / time_ms[asked] - 1


def brackets(groups: Sequence[Group], seed: int, most: int) -> tuple[float, float]:
    """Median and 90th percentile of `bracket` over the rows that the fold `point` asks."""
    asked = draw([FOLDS["point"](group) for group in groups], seed=seed, most=most)
    size = numpy.abs(numpy.concatenate(list(map(bracket, groups, asked))))
    return float(numpy.median(size)), float(numpy.percentile(size, 90))


def percent(value: float | None, width: int = 6) -> str:
    return " " * (width - 1) + "-" if value is None else f"{100 * value:{width}.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", help="a folder of tables; repeat it")
    parser.add_argument("--systems", nargs="+", default=["h100_sxm", "h200_sxm", "b200_sxm"])
    parser.add_argument(
        "--folds", nargs="+", choices=list(FOLDS), default=["point", "site", "frontier"]
    )
    parser.add_argument("--most", type=int, default=2000, help="rows per table and fold")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folders = options.data or [REFERENCE]
    if not options.data:
        try:
            folders.append(data_folder())
        except PerfDataNotAvailableError as error:
            print(error)
    print(
        "median and 90th percentile of the error in %, shares of truths within 1 and 2 sigma in %"
    )
    print(
        f"{'table':58} {'fold':9}   ours          bracket       published     1 sig  2 sig      s"
    )
    for path in (p for folder in folders for p in sorted(folder.rglob("*_perf.parquet"))):
        system, name = next((s for s in path.parts if s in list_systems()), ""), path.name[:-13]
        if name not in TABLES or system not in options.systems:
            continue
        groups = large_groups(path, name, system)
        for fold in options.folds:
            start = time.perf_counter()
            *_, one = validate(groups, fold, seed=options.seed, most=options.most)
            plain = (None, None)
            if fold == "point":
                plain = brackets(groups, options.seed, options.most)
            cells = [one["median"], one["p90"], *plain, *PUBLISHED.get((name, fold), (None, None)),
                     one["within_1_sigma"], one["within_2_sigma"]]  # fmt: skip
            label = "/".join((system, *path.parts[-3:-1], name))
            print(
                f"{label:58} {fold:9}",
                *map(percent, cells),
                f"{time.perf_counter() - start:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
