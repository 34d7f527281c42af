"""Fit perfdb/empirical.toml: what share of peak and bandwidth, and what launch time, measured kernels of a kind show.

    python tools/fit_empirical.py [--most ROWS] [--kinds NAMES] [--backends-only]

Rows are those of the newest published tables of each backend below, and for kinds that these lack our own; per kind the
three numbers minimise the typical error of log latency over `--most` rows drawn evenly from the tables. Kinds that no
table has, or that `--kinds` leaves out, keep their entries, which name their own source; `other` is the median of the
fitted kinds.

Then our own rows, by backend and phase, are set against the entries: where those miss them by `OFF` times or more in
the median, `[kind.backend]` or `[kind.backend.phase]` is fitted to the rows of kernels that `oplib.kernels` would take,
at the bounds of what these work through. `--backends-only` does this alone, and leaves whole kinds and `other`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy.optimize import least_squares

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from oplib.errors import InvalidInputError, TraceModelError  # noqa: E402
from oplib.kind import OpKind  # noqa: E402
from oplib.op import op_kinds  # noqa: E402
from perfdb.arrays import Floats  # noqa: E402
from perfdb.database import matching  # noqa: E402
from perfdb.efficiency import row_bounds  # noqa: E402
from perfdb.empirical import Efficiency  # noqa: E402
from perfdb.empirical import entries as entries_of  # noqa: E402
from perfdb.foreign import OWN_DATA, find_table  # noqa: E402
from perfdb.systems import System, load_system  # noqa: E402
from perfdb.tables import Table, read_table  # noqa: E402

SYSTEMS = ("h200_sxm", "b200_sxm")
BACKENDS = ("trtllm", "vllm", "sglang")
# For kinds that the published tables lack, and for entries of the backend.
OURS = (("h100_sxm", "torch"),)
LEAST_ROWS = 40  # of our own, that three numbers are fitted to
OFF = 1.5  # times by which an entry misses rows of a backend, in the median, for these to get their own
START_SHARES = ((0.6, 0.02), (0.7, 0.02))  # of peak and bandwidth, where fits begin
BETTER = 1.01  # times the least error that an earlier start may have and still count
FILE = ROOT / "perfdb" / "empirical.toml"
HEADER = "# Shares of peak and bandwidth, and ms of a launch; tools/fit_empirical.py writes those fitted to tables.\n"


def tables(kind: OpKind, most: int) -> Iterator[tuple[str, Floats]]:
    """Label, and columns compute ms, memory ms and latency [n, 3], of each table of a kind."""
    published = [(system, backend) for system in SYSTEMS for backend in BACKENDS]
    found = [one for pair in published for one in _table(kind, *pair, most)]
    if "phase" in {param.name for param in kind.params}:  # kernels of one backend in two phases
        yield from found
        return
    own = [one for pair in OURS for one in _table(kind, *pair, most)]
    yield from found or (one for one in own if len(one[1]) >= LEAST_ROWS)


def _table(kind: OpKind, system: str, backend: str, most: int) -> Iterator[tuple[str, Floats]]:
    """What `tables` yields of one system and backend, where there is a table."""
    try:
        path = find_table(kind, system=system, backend=backend)
        table = read_table(path, kind)
    except TraceModelError:  # no such table, or none of its rows
        return
    table = _drawn(table, most)
    _, compute, memory = row_bounds(table, load_system(system))
    yield f"{system} {backend} {path.parent.name}", _columns(table, compute, memory)


def _drawn(table: Table, most: int) -> Table:
    """At most so many rows, drawn evenly."""
    random = numpy.random.default_rng(0)
    if len(table) <= most:
        return table
    return table.take(random.choice(len(table), most, replace=False))


def _columns(table: Table, *columns: Floats) -> Floats:
    found = numpy.stack([*columns, table.latency], axis=1)
    return found[numpy.isfinite(found).all(1)]


def _weights(table: Table) -> Floats:
    """1 for all rows together that answer the same ops: entries are asked where none does, so that what tells is how
    far such groups are off and not how many rows each has."""
    weights = numpy.ones(len(table))
    for _, places in table.split(matching(table.kind)):
        weights[places] = 1 / len(places)
    return weights


def own_rows(
    kind: OpKind, system: str, backend: str, most: int
) -> Iterator[tuple[str, str, Floats, Floats]]:
    """Phase ("" where the kind has none), label, and columns as `tables` has them of the sizes asked and, behind
    their weights, of those worked through, of our own rows of a backend, in each phase that has `LEAST_ROWS`."""
    try:
        path = find_table(kind, system=system, backend=backend, data=OWN_DATA)
        table = read_table(path, kind)
    except TraceModelError:  # no such table, or none of its rows
        return
    known = load_system(system)
    table = table.take(_taken(table, known))
    phases = table.params["phase"].decode() if "phase" in table.params else None
    for phase in [""] if phases is None else sorted(set(phases)):
        rows = _drawn(table if phases is None else table.take(phases == phase), most)
        if len(rows) < LEAST_ROWS:
            continue
        asked = _columns(rows, *row_bounds(rows, known)[1:])
        worked = _columns(rows, _weights(rows), *row_bounds(rows, known, worked=True)[1:])
        label = f"{system} {backend} {path.parent.name} {', '.join(sorted(set(rows.kernel)))}"
        yield phase, label, asked, worked


def _taken(table: Table, system: System) -> NDArray[numpy.bool_]:
    """Which rows are of the kernel that is taken for them on this system, of those that can be installed here."""
    from oplib.kernels.hardware import Hardware
    from oplib.kernels.registry import resolve

    major, minor = map(int, system.compute_capability.split("."))
    device = Hardware(type="cuda", name=system.id, capability=(major, minor))
    kind, kernels = table.kind, table.kernel
    taken = numpy.zeros(len(table), dtype=bool)
    for params, places in table.split([param.name for param in kind.params]):
        for place in places:
            dims = {name: int(column[place]) for name, column in table.dims.items()}
            try:
                found = resolve(kind.name, device=device, params=kind.complete(params), dims=dims)
            except InvalidInputError:  # no op of the kind, or none that runs there
                continue
            taken[place] = found.name == kernels[place]
    return taken


def miss(entry: dict[str, Any], rows: Floats) -> float:
    """How many times too long or too short an entry has rows, in the median."""
    compute, memory, latency = rows.T
    found = Efficiency(**entry).latency_ms(compute, memory)
    return float(numpy.exp(numpy.median(numpy.abs(numpy.log(found / latency)))))


def _sigma(off: Floats, weights: Floats) -> float:
    """The error that 68.3 % of the weight stays within."""
    order = numpy.argsort(off)
    total = numpy.cumsum(weights[order])
    return float(off[order][numpy.searchsorted(total, 0.683 * total[-1])])


def _starts() -> Iterator[Floats]:
    """Where a fit begins: from one place alone the side that binds may stay the wrong one."""
    for shares in itertools.product(*START_SHARES):
        yield numpy.array([*(numpy.log(one / (1 - one)) for one in shares), numpy.log(0.005)])


def fit(rows: Floats, weights: Floats | None = None) -> dict[str, float]:
    """The three numbers and the spread around them, of columns compute ms, memory ms and latency [n, 3].

    Each row counts `weights` times in the spread, alike where none are given.
    """
    compute, memory, latency = rows.T

    def errors(x: Floats) -> Floats:
        share = 1 / (1 + numpy.exp(-x[:2]))
        found = numpy.maximum(compute / share[0], memory / share[1]) + numpy.exp(x[2])
        return numpy.asarray(numpy.log(found / latency))

    found = [least_squares(errors, start, loss="soft_l1", f_scale=0.1) for start in _starts()]
    least = min(one.cost for one in found)
    best = next(one.x for one in found if one.cost <= BETTER * least)
    off = numpy.abs(errors(best))
    spread = float(numpy.percentile(off, 68.3)) if weights is None else _sigma(off, weights)
    share = 1 / (1 + numpy.exp(-best[:2]))
    return {
        "compute": float(share[0]),
        "memory": float(share[1]),
        "launch_ms": float(numpy.exp(best[2])),
        "uncertainty": float(numpy.expm1(spread)),
    }


def fit_kinds(names: list[str], most: int) -> dict[tuple[str, ...], dict[str, Any]]:
    """The entries of those of the kinds that have tables."""
    fitted: dict[tuple[str, ...], dict[str, Any]] = {}
    for name in names:
        if found := list(tables(op_kinds()[name], most)):
            numbers = fit(numpy.concatenate([rows for _, rows in found]))
            source = f"{', '.join(label for label, _ in found)}; {date.today()}"
            fitted[(name,)] = {**numbers, "source": source}
            _tell(name, numbers)
    return fitted


def fit_backends(
    names: list[str], most: int, stated: dict[tuple[str, ...], dict[str, Any]]
) -> dict[tuple[str, ...], dict[str, Any]]:
    """The entries by backend and phase of the kinds whose own ones, of `stated`, miss our rows by `OFF`."""
    fitted: dict[tuple[str, ...], dict[str, Any]] = {}
    for name in names:
        for system, backend in OURS:
            for phase, label, asked, worked in own_rows(op_kinds()[name], system, backend, most):
                key = (name, backend, *filter(None, [phase]))
                before = miss(stated.get((name,), stated[("other",)]), asked)
                if before < OFF:
                    print(f"{'.'.join(key)}: {before:.2f}x, {len(asked)} rows", file=sys.stderr)
                    continue
                weights, rows = worked[:, 0], worked[:, 1:]
                entry = {**fit(rows, weights), "source": f"{label}; {date.today()}"}
                fitted[key] = entry
                change = f"{before:.2f}x -> {miss(entry, rows):.2f}x"
                _tell(".".join(key), entry, f"{change}, {len(rows)} rows")
    return fitted


def _tell(name: str, numbers: dict[str, Any], more: str = "") -> None:
    shown = {key: f"{value:.3g}" for key, value in numbers.items() if not isinstance(value, str)}
    print(name, shown, more, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=20_000, help="rows of a table at most")
    parser.add_argument("--kinds", default="", help="these alone, joined by commas; `other` stays")
    parser.add_argument(
        "--backends-only", action="store_true", help="entries of whole kinds and `other` stay"
    )
    options = parser.parse_args()
    most, wanted = options.most, set(filter(None, options.kinds.split(",")))
    entries = entries_of(tomllib.loads(FILE.read_text(encoding="utf-8")))
    names = [
        name
        for name, kind in op_kinds().items()
        if kind.coordinates and (not wanted or name in wanted)
    ]
    if not options.backends_only:
        fitted = fit_kinds(names, most)
        middle = {
            key: float(numpy.median([entry[key] for entry in fitted.values()]))
            for key in ("compute", "memory", "launch_ms", "uncertainty")
        }
        entries |= fitted
        if not wanted:
            entries[("other",)] = {**middle, "source": "the median of the fitted kinds"}
    entries = {key: entry for key, entry in entries.items() if key[0] not in names or not key[1:]}
    entries |= fit_backends(names, most, entries)
    parts = [HEADER]
    for key in sorted(entries):
        lines = [
            f"{field} = {value:.3g}" if isinstance(value, int | float) else f'{field} = "{value}"'
            for field, value in entries[key].items()
        ]
        parts.append("\n".join([f"[{'.'.join(key)}]", *lines]) + "\n")
    FILE.write_text("\n".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
