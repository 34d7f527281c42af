"""Fit perfdb/group_sizes.toml: how times of collectives follow the size of their group.

    python tools/fit_group_sizes.py [--data DIR]

Rows of the published NCCL tables, all versions, of systems whose GPUs are joined by switches: pairs of the same message
and dtype over a group and a larger one. Per kind the two exponents with the least median error, and the error of a
doubling that 68.3 % of the pairs stay within.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import date
from itertools import combinations
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from oplib.collective import Collective  # noqa: E402
from oplib.errors import PerfDataNotAvailableError  # noqa: E402
from oplib.op import op_kinds  # noqa: E402
from perfdb.arrays import Floats  # noqa: E402
from perfdb.efficiency import groups_of  # noqa: E402
from perfdb.foreign import OWN_DATA, available, find_tables  # noqa: E402
from perfdb.group_sizes import FILE, Growth, moved, reached  # noqa: E402
from perfdb.systems import list_systems, load_system  # noqa: E402
from perfdb.tables import read_table  # noqa: E402

SYSTEMS = tuple(name for name in list_systems() if load_system(name).joins)
ROUNDS = numpy.linspace(0.0, 1.2, 61)
MOVES = numpy.linspace(0.0, 1.5, 61)
LEAST_PAIRS = 40
HEADER = "# How times of collectives follow the size of their group; tools/fit_group_sizes.py writes it.\n"


def pairs(kind: Collective, system: str, version: str, data: Path | None) -> Iterator[list[float]]:
    """GPUs of the smaller and of the larger group, the share of the bound that the smaller reaches, and the log of
    the ratio of their times."""
    try:
        path = find_tables(kind, system=system, backend="nccl", version=version, data=data)[0]
        table = read_table(path, kind)
    except PerfDataNotAvailableError:
        return
    if path.is_relative_to(OWN_DATA):
        return
    rows: dict[tuple[object, float], dict[int, tuple[float, float]]] = {}
    for values, places in table.split(["num_gpus", "dtype"]):
        for group in groups_of(table.take(places), load_system(system), ["num_gpus", "dtype"]):
            sizes = group.rows.columns["bytes"]
            for size, time, bound in zip(sizes, group.rows.latency, group.bounds, strict=True):
                of_message = rows.setdefault((values["dtype"], float(size)), {})
                of_message[int(str(values["num_gpus"]))] = (float(time), float(bound))
    for by_gpus in rows.values():
        for small, large in combinations(sorted(by_gpus), 2):
            (time, bound), (grown, _) = by_gpus[small], by_gpus[large]
            share = float(reached(numpy.asarray(bound), numpy.asarray(time)))
            yield [small, large, share, float(numpy.log(grown / time))]


def fit(kind: Collective, found: Floats) -> tuple[float, float, float]:
    """The exponents of rounds and of what is moved, and the relative error of a doubling (one sigma)."""
    small, large, share, ratio = found.T
    sent = numpy.array([moved(kind, int(a), int(b)) for a, b in zip(small, large, strict=True)])

    def off(rounds: float, moves: float) -> Floats:
        tried = Growth(rounds=rounds, moves=moves, uncertainty=0.0, source="")
        modelled = numpy.log(tried.ratio(large / small, sent, share))
        errors: Floats = numpy.abs(ratio - modelled) / numpy.log2(large / small)
        return errors

    best = min(
        ((float(a), float(b)) for a in ROUNDS for b in MOVES),
        key=lambda pair: float(numpy.median(off(*pair))),
    )
    return *best, float(numpy.expm1(numpy.percentile(off(*best), 68.3)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Fit perfdb/group_sizes.toml.")
    parser.add_argument("--data", type=Path, help="folder of published tables")
    data = parser.parse_args().data
    lines = [HEADER]
    tables = [(at[0], at[2]) for at in available(data) if at[0] in SYSTEMS and at[1] == "nccl"]
    for name, kind in sorted(op_kinds().items()):
        if not isinstance(kind, Collective):
            continue
        found = numpy.array([pair for at in tables for pair in pairs(kind, *at, data)])
        if len(found) < LEAST_PAIRS:
            continue
        rounds, moves, error = fit(kind, found)
        entry = Growth(
            rounds=rounds,
            moves=moves,
            uncertainty=error,
            source=f"{len(found)} pairs, NCCL on {', '.join(sorted({at[0] for at in tables}))}; {date.today()}",
        )
        lines.append(
            f"[{name}]\nrounds = {entry.rounds:.2f}\nmoves = {entry.moves:.3g}\n"
            f'uncertainty = {entry.uncertainty:.3g}\nsource = "{entry.source}"\n'
        )
        print(lines[-1])
    (ROOT / "perfdb" / FILE).write_text("\n".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
