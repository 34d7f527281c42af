"""Fit perfdb/sisters.toml: how the times of our kernels follow the bound from one GPU to a sister with other memory.

    python tools/fit_sisters.py

Rows of one case and kernel on both systems, of a backend's main version there; per kind, and per phase where it has
them, the elasticity with the least median error, in hundredths, and the error that 68.3 % of the points stay within.
`other` is the median of the kinds, its error that which 68.3 % of them stay within. `power` is how far apart W is, of
all kinds, where both systems have it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from oplib.errors import TraceModelError  # noqa: E402
from oplib.kind import OpKind  # noqa: E402
from oplib.op import op_kinds  # noqa: E402
from perfdb.arrays import Floats  # noqa: E402
from perfdb.database import matching  # noqa: E402
from perfdb.efficiency import groups_of  # noqa: E402
from perfdb.foreign import OWN_DATA, find_table  # noqa: E402
from perfdb.sisters import FILE, Scaling  # noqa: E402
from perfdb.systems import load_system  # noqa: E402
from perfdb.tables import read_table  # noqa: E402

PAIR = ("h100_sxm", "h200_sxm")
BACKENDS = ("torch",)
LEAST_ROWS = 8
TRIED = numpy.linspace(0.0, 1.0, 101)
HEADER = "# How times follow the bound from a GPU to a sister with other memory; tools/fit_sisters.py writes it.\n"


def found_on(
    kind: OpKind, system: str, backend: str
) -> dict[tuple[object, ...], tuple[float, float, float, float]]:
    """Latency, bound and launch in ms and power in W (nan where unknown) by what tells rows apart: phase ("" where
    there is none), other parameters, sizes and kernel."""
    table = read_table(find_table(kind, system=system, backend=backend, data=OWN_DATA), kind)
    told = matching(kind)
    rows = {}
    for values, places in table.split(told):
        for group in groups_of(table.take(places), load_system(system), told):
            own = group.rows
            columns = [own.columns[name] for name in kind.coordinates]
            power = numpy.full(len(own), numpy.nan) if own.power is None else own.power
            for i in range(len(own)):
                sizes = tuple(float(column[i]) for column in columns)
                key = (str(values.get("phase", "")), tuple(values.items()), sizes, own.kernel[i])
                times = (float(own.latency[i]), float(group.bounds[i]), float(group.launch))
                rows[key] = (*times, float(power[i]))
    return rows


def pairs(kind: OpKind, backend: str) -> Iterator[tuple[str, Floats]]:
    """Phase ("" where the kind has none), and columns log of the ratio of times, of bounds and of power [n, 3]."""
    one, other = (found_on(kind, system, backend) for system in PAIR)
    by_phase: dict[str, list[tuple[float, float, float]]] = {}
    for key in one.keys() & other.keys():
        (time, bound, launch, power), (time_there, bound_there, _, power_there) = (
            one[key],
            other[key],
        )
        by_phase.setdefault(str(key[0]), []).append(
            (time_there / time, (bound_there + launch) / (bound + launch), power_there / power)
        )
    for phase, found in sorted(by_phase.items()):
        if len(found) >= LEAST_ROWS:
            yield phase, numpy.log(numpy.array(found))


def fit(found: Floats) -> tuple[float, float]:
    """The elasticity and its relative error (one sigma)."""
    times, bounds = found.T[:2]
    off = numpy.abs(times - TRIED[:, None] * bounds)
    best = int(numpy.median(off, axis=1).argmin())
    return float(TRIED[best]), float(numpy.expm1(numpy.percentile(off[best], 68.3)))


def main() -> int:
    lines = []
    for backend in BACKENDS:
        fits, powers = [], numpy.zeros(0)
        for name, kind in sorted(op_kinds().items()):
            try:
                parts = list(pairs(kind, backend))
            except TraceModelError:  # no table on one of them
                continue
            for phase, found in parts:
                elasticity, error = fit(found)
                powers = numpy.append(powers, found[numpy.isfinite(found[:, 2]), 2])
                fits.append((elasticity, error))
                source = f"{len(found)} points of {' and '.join(PAIR)}; {date.today()}"
                where = ".".join(filter(None, (name, backend, phase)))
                lines.append(
                    _entry(where, Scaling(elasticity=elasticity, uncertainty=error, source=source))
                )
                print(lines[-1])
        elasticities, errors = numpy.array(fits).T
        middle = float(numpy.median(elasticities))
        memory = numpy.log(
            load_system(PAIR[1]).memory_bandwidth.base / load_system(PAIR[0]).memory_bandwidth.base
        )
        apart = numpy.hypot(errors, numpy.expm1(numpy.abs(elasticities - middle) * memory))
        lines.append(
            _entry(
                f"other.{backend}",
                Scaling(
                    elasticity=middle,
                    uncertainty=float(numpy.percentile(apart, 68.3)),
                    source=f"{len(fits)} kinds and phases; {date.today()}",
                ),
            )
        )
        print(lines[-1])
        if len(powers):
            error = float(numpy.expm1(numpy.percentile(numpy.abs(powers), 68.3)))
            source = f"{len(powers)} points of {' and '.join(PAIR)}; {date.today()}"
            power = Scaling(elasticity=0.0, uncertainty=error, source=source)
            lines.append(_entry(f"power.{backend}", power))
            print(lines[-1])
    (ROOT / "perfdb" / FILE).write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    return 0


def _entry(name: str, found: Scaling) -> str:
    return (
        f"[{name}]\nelasticity = {found.elasticity:.2f}\nuncertainty = {found.uncertainty:.3g}\n"
        f'source = "{found.source}"\n'
    )


if __name__ == "__main__":
    sys.exit(main())
