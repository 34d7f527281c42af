"""Draw what share of the speed of light measured kernels reach, a panel per op kind: docs/efficiency_SYSTEM.svg.

    python tools/efficiency_pictures.py [SYSTEM ...] [--backend torch]

A point is a row of the newest tables of ours: across, the bound in us, logarithmic; upwards, bound over measured time.
Prints the median share by kernel and system, of all rows and of those whose bound is 50 us or more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from oplib.errors import TraceModelError  # noqa: E402
from oplib.op import op_kinds  # noqa: E402
from perfdb.arrays import Floats  # noqa: E402
from perfdb.efficiency import bounds_of  # noqa: E402
from perfdb.foreign import find_table  # noqa: E402
from perfdb.systems import load_system  # noqa: E402
from perfdb.tables import read_table  # noqa: E402

OWN = ROOT / "perfdb" / "data"
COLUMNS, WIDE, HIGH, MARGIN = 3, 260, 150, 34
LEAST_US, MOST_US = 0.01, 1e5
MOST_POINTS = 350  # of a panel
TOP = 1.25  # share at the upper edge: beyond 1 a cache holds what the bound reads from memory
LARGE_MS = 0.05
Panel: TypeAlias = tuple[str, dict[str, tuple[Floats, Floats]]]  # a kind; bounds, shares by kernel
Panels: TypeAlias = Sequence[Panel]
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a")


def panels_of(system: str, backend: str) -> Iterator[Panel]:
    """Each kind that has a table, and by kernel its bounds in ms and shares."""
    facts = load_system(system)
    for name, kind in op_kinds().items():
        try:
            table = read_table(find_table(kind, system=system, backend=backend, data=OWN), kind)
        except TraceModelError:  # no such table, or none of its rows
            continue
        bounds = bounds_of(table, facts)
        known = numpy.isfinite(bounds) & (bounds > 0) & (table.latency > 0)
        kernels = table.kernel.astype(str)
        yield (
            name,
            {
                kernel: (bounds[chosen], bounds[chosen] / table.latency[chosen])
                for kernel in sorted(set(kernels))
                if (chosen := known & (kernels == kernel)).any()
            },
        )


def draw(title: str, kernels: dict[str, tuple[Floats, Floats]], left: float, top: float) -> str:
    """One panel, its upper left corner at `left`, `top`."""
    parts = [
        f'<g transform="translate({left:.0f} {top:.0f})"><text x="0" y="-8" class="t">{title}</text>',
        f'<rect width="{WIDE}" height="{HIGH}" class="f"/>',
    ]
    for share in (0.5, 1.0):
        y = HIGH * (1 - share / TOP)
        parts.append(f'<path d="M0 {y:.1f}H{WIDE}" class="l"/>')
        parts.append(f'<text x="-4" y="{y + 3:.1f}" text-anchor="end">{share:.0%}</text>')
    for power in (-1, 1, 3, 5):
        x = _across(numpy.array([10.0**power]))[0]
        label = f"{10.0**power:g}"
        parts.append(f'<text x="{x:.1f}" y="{HIGH + 12}" text-anchor="middle">{label}</text>')
    total = sum(len(bounds) for bounds, _ in kernels.values())
    for i, (kernel, (bounds, shares)) in enumerate(kernels.items()):
        colour = COLOURS[i % len(COLOURS)]
        count = max(1, round(len(bounds) * min(1.0, MOST_POINTS / total)))
        chosen = numpy.random.default_rng(0).choice(len(bounds), count, replace=False)
        xs = _across(bounds[chosen] * 1e3)
        ys = HIGH * (1 - numpy.clip(shares[chosen], 0, TOP) / TOP)
        dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<path d="{dots}" stroke="{colour}" class="d"/>')
        parts.append(f'<text x="5" y="{13 + 11 * i}" fill="{colour}">{kernel}</text>')
    return "".join([*parts, "</g>\n"])


def _across(microseconds: Floats) -> Floats:
    low, high = numpy.log10(LEAST_US), numpy.log10(MOST_US)
    inside = numpy.clip(microseconds, LEAST_US, MOST_US)
    return numpy.asarray(WIDE * (numpy.log10(inside) - low) / (high - low))


def picture(panels: Panels) -> str:
    """All panels as an SVG."""
    drawn = []
    for i, (name, kernels) in enumerate(panels):
        row, column = divmod(i, COLUMNS)
        left, top = 44 + column * (WIDE + 50), 46 + row * (HIGH + 2 * MARGIN)
        drawn.append(draw(name, kernels, left, top))
    rows = -(-len(drawn) // COLUMNS)
    width, height = 44 + COLUMNS * (WIDE + 50), 20 + rows * (HIGH + 2 * MARGIN)
    style = (
        "text{font:10px sans-serif}.t{font-weight:bold}.f{fill:none;stroke:#999}"
        ".l{stroke:#ddd}.d{stroke-width:2.5;stroke-linecap:round;stroke-opacity:.55}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n'
        f"<style>{style}</style>\n"
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n{"".join(drawn)}</svg>\n'
    )


def shares_of(panels: Panels) -> Iterator[tuple[tuple[str, str], str]]:
    """By kind and kernel three cells: rows, their median share, that of the long ones."""
    for name, kernels in panels:
        for kernel, (bounds, shares) in kernels.items():
            large = shares[bounds >= LARGE_MS]
            told = f"{numpy.median(large):.0%} of {len(large)}" if len(large) else "none"
            yield (name, kernel), f"{len(shares)} | {numpy.median(shares):.0%} | {told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", default=["h100_sxm", "h200_sxm"])
    parser.add_argument("--backend", default="torch")
    options = parser.parse_args()
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for system in options.systems:
        found = list(panels_of(system, options.backend))
        target = ROOT / "docs" / f"efficiency_{system}.svg"
        target.write_text(picture(found), encoding="utf-8")
        for key, told in shares_of(found):
            cells.setdefault(key, {})[system] = told
    for (name, kernel), told in sorted(cells.items()):
        beside = " | ".join(told.get(system, "| |") for system in options.systems)
        print(f"| {name} | `{kernel}` | {beside} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
