"""How the error grows as rows are taken away: a table and a picture, docs/interpolation.svg.

    python tools/thinning.py [--system h200_sxm] [--most 1000]

Rows of the fold `point` are asked; of all other rows a random share is kept. With all rows kept this is the fold.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy

from oplib.op import kind
from perfdb.efficiency import Group
from perfdb.estimator import Estimator, subset
from perfdb.folds import FOLDS
from perfdb.foreign import find_table
from perfdb.kriging import Estimate, join
from perfdb.validate import draw, estimate_hidden, large_groups, score

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "interpolation.svg"
KEPT = (1.0, 0.5, 0.2, 0.1)
KINDS = ("gemm", "context_attention", "generation_attention", "context_mla", "moe")
BACKENDS = ("trtllm", "vllm", "sglang")
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7b4ea3", "#b8860b")
DASHES = ("", "7 4", "2 3")
LEFT, TOP, WIDE, HIGH = 60, 46, 420, 300


def thinned(group: Group, asked: numpy.ndarray, kept: float, seed: int) -> Estimate:
    """Estimates at the rows `asked` from a share `kept` of all other rows."""
    if kept == 1.0:
        return estimate_hidden(group, FOLDS["point"](group), asked)
    others = numpy.setdiff1d(numpy.arange(len(group.ratios)), asked)
    many = max(round(kept * len(others)), 1)
    known = numpy.random.default_rng(seed).permutation(others)[:many]
    return Estimator.fit(subset(group, known)).estimate(group.points[asked])


def curve(groups: Sequence[Group], *, most: int, seed: int) -> list[tuple[float, float]]:
    """Median and 90th percentile of the error, in percent, per share in KEPT."""
    drawn = draw([FOLDS["point"](group) for group in groups], seed=seed, most=most)
    pairs = [(group, asked) for group, asked in zip(groups, drawn, strict=True) if len(asked)]
    truth = numpy.concatenate([group.ratios[asked] for group, asked in pairs])
    errors = []
    for kept in KEPT:
        one = score(truth, join(thinned(group, asked, kept, seed) for group, asked in pairs))
        errors.append((100 * one.median, 100 * one.p90))
    return errors


def picture(curves: Mapping[tuple[str, str], Sequence[tuple[float, float]]], system: str) -> str:
    """An SVG of the medians over the share kept; both axes are logarithmic."""
    ticks = [0.5, 1, 2, 5, 10, 20]

    def across(kept: float) -> float:
        return LEFT + WIDE * float(numpy.log(1 / kept) / numpy.log(1 / KEPT[-1]))

    def up(error: float) -> float:
        share = numpy.log(max(error, ticks[0]) / ticks[0]) / numpy.log(ticks[-1] / ticks[0])
        return TOP + HIGH * (1 - float(share))

    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 400" font-family="sans-serif" font-size="12">',
        '<rect width="720" height="400" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14">Median error against the share of rows kept, {system}</text>',
    ]
    for tick in ticks:
        lines.append(
            f'<line x1="{LEFT}" x2="{LEFT + WIDE}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g} %</text>'
        )
    for kept in KEPT:
        lines.append(
            f'<text x="{across(kept):.1f}" y="{TOP + HIGH + 18}" text-anchor="middle">{kept:.0%}</text>'
        )
    lines.append(
        f'<text x="{LEFT + WIDE / 2}" y="{TOP + HIGH + 38}" text-anchor="middle">rows kept</text>'
    )
    for place, ((name, backend), errors) in enumerate(curves.items()):
        colour, dash = COLOURS[KINDS.index(name)], DASHES[BACKENDS.index(backend)]
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        dots = " ".join(
            f"{across(kept):.1f},{up(median):.1f}"
            for kept, (median, _) in zip(KEPT, errors, strict=True)
        )
        y = TOP + 10 + 20 * place
        lines.append(f'<polyline points="{dots}" {style}/>')
        lines.append(f'<line x1="500" x2="530" y1="{y}" y2="{y}" {style}/>')
        lines.append(f'<text x="538" y="{y + 4}">{name}, {backend}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="h200_sxm")
    parser.add_argument("--most", type=int, default=1000, help="rows to ask of a table")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    curves = {}
    for name in KINDS:
        for backend in BACKENDS:
            if (name, backend) == ("context_mla", "vllm"):  # the package has no such table
                continue
            path = find_table(kind(name), system=options.system, backend=backend)
            groups = large_groups(path, name, options.system)
            errors = curve(groups, most=options.most, seed=options.seed)
            curves[name, backend] = errors
            cells = " | ".join(f"{median:.1f}, {p90:.1f}" for median, p90 in errors)
            print(f"| {name}, {backend} | {cells} |", flush=True)
    PICTURE.write_text(picture(curves, options.system), encoding="utf-8")


if __name__ == "__main__":
    main()
