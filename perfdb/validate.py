"""How far interpolation is off: rows of a table are hidden and estimated from the rest.

python -m perfdb.validate --system h200_sxm --backend trtllm --table gemm --fold site --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy

from oplib.command_line import Parser, run_command
from oplib.errors import InvalidInputError
from oplib.op import kind, op_kinds
from perfdb.arrays import Floats, Ints
from perfdb.database import matching
from perfdb.efficiency import Group, groups_of
from perfdb.estimator import Estimator, subset
from perfdb.folds import FOLDS, Fold
from perfdb.foreign import find_table
from perfdb.kriging import Estimate, join
from perfdb.systems import load_system
from perfdb.tables import read_table

Json: TypeAlias = dict[str, Any]  # Any: an object for JSON

FEWEST_ROWS = 8  # of a group; fewer say nothing about a fold

_PARTS = 5  # of the sets that are asked; those of one have no say in how they are estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Relative errors of estimated latencies: median and 90th percentile of their size, median with sign, and the
    shares of truths within one and two stated deviations."""

    rows: int
    median: float
    p90: float
    bias: float
    within_1_sigma: float
    within_2_sigma: float


def score(truth: Floats, found: Estimate) -> Score:
    """The score of estimates of log latency [q] against true ones [q]."""
    errors = numpy.expm1(found.value - truth)
    z = numpy.abs(found.value - truth) / found.deviation
    return Score(
        rows=len(truth),
        median=float(numpy.median(numpy.abs(errors))),
        p90=float(numpy.percentile(numpy.abs(errors), 90)),
        bias=float(numpy.median(errors)),
        within_1_sigma=float((z < 1).mean()),
        within_2_sigma=float((z < 2).mean()),
    )


def estimate_hidden(group: Group, fold: Fold, asked: Ints) -> Estimate:
    """Estimates of the log ratios at `asked`, each from the rows that are not hidden with it.

    Nor does any row of its part of the sets choose the model and the width of deviations. Where all are hidden at
    once, an estimator that never had them is asked.
    """
    if fold.outside:
        known = numpy.flatnonzero(fold.hidden == 0)
        return Estimator.fit(subset(group, known)).estimate(group.points[asked])
    sets = numpy.random.default_rng(0).permutation(numpy.unique(fold.hidden[asked]))
    value, deviation = numpy.empty(len(asked)), numpy.empty(len(asked))
    for part in numpy.array_split(sets, min(_PARTS, len(sets))):
        places = numpy.flatnonzero(numpy.isin(fold.hidden[asked], part))
        spared = numpy.flatnonzero(numpy.isin(fold.hidden, part))
        found = Estimator.fit(group, spared=spared).leave_out(asked[places], fold.hidden)
        value[places], deviation[places] = found.value, found.deviation
    return Estimate(value=value, deviation=deviation)


def large_groups(path: Path, op: str, system: str) -> list[Group]:
    """The groups of a table that are large enough for a fold, told apart as prices tell them."""
    groups = groups_of(read_table(path, kind(op)), load_system(system), matching(kind(op)))
    return [group for group in groups if len(group.ratios) >= FEWEST_ROWS]


def draw(folds: Sequence[Fold], *, seed: int, most: int) -> list[Ints]:
    """Rows to ask of each group, at most about `most` in all, drawn evenly over the rows that the folds ask."""
    random = numpy.random.default_rng(seed)
    total = sum(len(one.asked) for one in folds)
    shares = [min(len(one.asked), round(most * len(one.asked) / max(total, 1))) for one in folds]
    return [
        random.choice(one.asked, share, replace=False) if share else one.asked[:0]
        for one, share in zip(folds, shares, strict=True)
    ]


def validate(groups: Sequence[Group], fold: str, *, seed: int, most: int) -> list[Json]:
    """A score per group and, last, one over all, of the rows that `draw` asks."""
    folds = [FOLDS[fold](group) for group in groups]
    scores, truths, found = [], [], []
    for group, one, asked in zip(groups, folds, draw(folds, seed=seed, most=most), strict=True):
        if not len(asked):
            continue
        truths.append(group.ratios[asked])
        found.append(estimate_hidden(group, one, asked))
        scores.append({"group": dict(group.shared), **asdict(score(truths[-1], found[-1]))})
    if not found:
        raise InvalidInputError(
            f"The fold {fold!r} asks nothing of {len(groups)} groups of {FEWEST_ROWS} rows or more.",
            f"Folds: {', '.join(FOLDS)}.",
        )
    return [*scores, {"group": "all", **asdict(score(numpy.concatenate(truths), join(found)))}]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, validate, print; 0, or 1 and 2 as the error says."""
    argv = None if arguments is None else list(arguments)
    return run_command("perfdb.validate", _run, argv)


def _run(argv: list[str]) -> int:
    parser = Parser(prog="python -m perfdb.validate", description=__doc__)
    parser.add_argument("--system", required=True)
    parser.add_argument("--backend", required=True, help="trtllm, vllm, sglang")
    parser.add_argument("--version", default="", help="of the backend; the newest where not given")
    parser.add_argument("--table", required=True, help="an op kind: gemm, context_attention, ...")
    parser.add_argument("--fold", choices=list(FOLDS), default="point")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=4000, help="rows to ask at most")
    parser.add_argument("--data", type=Path, help="a folder of tables instead of the package's")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    path = _path(options)
    groups = large_groups(path, options.table, options.system)
    found = validate(groups, options.fold, seed=options.seed, most=options.most)
    if options.json:
        print(json.dumps({"table": str(path), "fold": options.fold, "scores": found}))
        return 0
    print(f"{path}\n{'rows':>7} {'median':>7} {'p90':>7} {'bias':>7} {'1 sigma':>8} {'2 sigma':>8}")
    for one in found:
        numbers = (one[k] for k in ("median", "p90", "bias", "within_1_sigma", "within_2_sigma"))
        shared = one["group"]
        label = shared if isinstance(shared, str) else _label(shared)
        print(
            f"{one['rows']:7d} "
            + " ".join(f"{n:{w}.1%}" for n, w in zip(numbers, (7, 7, 7, 8, 8), strict=True))
            + f"  {label}"
        )
    return 0


def _path(options: argparse.Namespace) -> Path:
    for name, least in (("most", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise InvalidInputError(
                f"--{name} is {getattr(options, name)}.", f"It is at least {least}."
            )
    if options.table not in op_kinds():
        raise InvalidInputError(
            f"{options.table!r} is no op kind.", f"Known: {', '.join(op_kinds())}."
        )
    load_system(options.system)  # an unknown one is a mistake before any table is looked for
    return find_table(
        kind(options.table),
        system=options.system,
        backend=options.backend,
        version=options.version,
        data=options.data,
    )


def _label(shared: Json) -> str:
    """The parameters that a reader tells groups by: those that are neither off nor zero."""
    return " ".join(
        f"{name}={value}" for name, value in shared.items() if value not in (0, False, "none")
    )


if __name__ == "__main__":
    sys.exit(main())
