"""Fit perfdb/empirical.toml: what share of peak and bandwidth, and what launch time, measured kernels of a kind show.

    python tools/fit_empirical.py [--most ROWS] [--kinds NAMES]

Rows are those of the newest published tables of each backend below, and for kinds that these lack our own; per kind the
three numbers minimise the typical error of log latency over `--most` rows drawn evenly from the tables. Kinds that no
table has, or that `--kinds` leaves out, keep their entries, which name their own source; `other` is the median of the
fitted kinds.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy
from scipy.optimize import least_squares

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from oplib.errors import TraceModelError  # noqa: E402
from oplib.kind import OpKind  # noqa: E402
from oplib.op import op_kinds  # noqa: E402
from perfdb.arrays import Floats  # noqa: E402
from perfdb.efficiency import row_bounds  # noqa: E402
from perfdb.foreign import find_table  # noqa: E402
from perfdb.systems import load_system  # noqa: E402
from perfdb.tables import read_table  # noqa: E402

SYSTEMS = ("h200_sxm", "b200_sxm")
BACKENDS = ("trtllm", "vllm", "sglang")
OURS = (("h100_sxm", "torch"),)  # kinds that the published tables lack
LEAST_ROWS = 100  # of our own, that three numbers are fitted to
FILE = ROOT / "perfdb" / "empirical.toml"
HEADER = "# Shares of peak and bandwidth, and ms of a launch; tools/fit_empirical.py writes those fitted to tables.\n"


def tables(kind: OpKind, most: int) -> Iterator[tuple[str, Floats]]:
    """Label, and columns compute ms, memory ms and latency [n, 3], of each table of a kind."""
    published = [(system, backend) for system in SYSTEMS for backend in BACKENDS]
    found = [one for pair in published for one in _table(kind, *pair, most)]
    own = [one for pair in OURS for one in _table(kind, *pair, most)]
    yield from found or (one for one in own if len(one[1]) >= LEAST_ROWS)


def _table(kind: OpKind, system: str, backend: str, most: int) -> Iterator[tuple[str, Floats]]:
    """What `tables` yields of one system and backend, where there is a table."""
    try:
        path = find_table(kind, system=system, backend=backend)
        table = read_table(path, kind)
    except TraceModelError:  # no such table, or none of its rows
        return
    random = numpy.random.default_rng(0)
    if len(table) > most:
        table = table.take(random.choice(len(table), most, replace=False))
    _, compute, memory = row_bounds(table, load_system(system))
    columns = numpy.stack([compute, memory, table.latency], axis=1)
    yield f"{system} {backend} {path.parent.name}", columns[numpy.isfinite(columns).all(1)]


def fit(rows: Floats) -> dict[str, float]:
    """The three numbers and the spread around them, of columns compute ms, memory ms and latency [n, 3]."""
    compute, memory, latency = rows.T

    def errors(x: Floats) -> Floats:
        share = 1 / (1 + numpy.exp(-x[:2]))
        found = numpy.maximum(compute / share[0], memory / share[1]) + numpy.exp(x[2])
        return numpy.asarray(numpy.log(found / latency))

    start = numpy.array([0.5, 0.8, numpy.log(0.005)])
    best = least_squares(errors, start, loss="soft_l1", f_scale=0.1).x
    spread = float(numpy.percentile(numpy.abs(errors(best)), 68.3))
    share = 1 / (1 + numpy.exp(-best[:2]))
    return {
        "compute": float(share[0]),
        "memory": float(share[1]),
        "launch_ms": float(numpy.exp(best[2])),
        "uncertainty": float(numpy.expm1(spread)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=20_000, help="rows of a table at most")
    parser.add_argument("--kinds", default="", help="these alone, joined by commas; `other` stays")
    options = parser.parse_args()
    most, wanted = options.most, set(filter(None, options.kinds.split(",")))
    entries: dict[str, Any] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    fitted = {}
    for name, kind in op_kinds().items():
        chosen = kind.coordinates and (not wanted or name in wanted)
        found = list(tables(kind, most)) if chosen else []
        if found:
            numbers = fit(numpy.concatenate([rows for _, rows in found]))
            source = f"{', '.join(label for label, _ in found)}; {date.today()}"
            fitted[name] = {**numbers, "source": source}
            print(name, {key: f"{value:.3g}" for key, value in numbers.items()}, file=sys.stderr)
    middle = {
        key: float(numpy.median([entry[key] for entry in fitted.values()]))
        for key in ("compute", "memory", "launch_ms", "uncertainty")
    }
    entries |= fitted
    if not wanted:
        entries["other"] = {**middle, "source": "the median of the fitted kinds"}
    parts = [HEADER]
    for name in sorted(entries):
        lines = [
            f"{key} = {value:.3g}" if isinstance(value, int | float) else f'{key} = "{value}"'
            for key, value in entries[name].items()
        ]
        parts.append("\n".join([f"[{name}]", *lines]) + "\n")
    FILE.write_text("\n".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
