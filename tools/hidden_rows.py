"""How far off `hybrid` is where rows of a system are hidden at random and those of its sisters are there.

    python tools/hidden_rows.py [--system h200_sxm] [--share 0.1] [KIND ...]

Of our tables of each kind a share of the rows is hidden and at most 600 of them are priced by the rest. Prints the
median error, the one that 90 % stay below, and how many stay within one and two stated deviations.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from oplib.errors import TraceModelError  # noqa: E402
from oplib.kind import OpKind  # noqa: E402
from oplib.op import op_kinds  # noqa: E402
from perfdb.database import PerfDatabase  # noqa: E402
from perfdb.foreign import find_table  # noqa: E402
from perfdb.kriging import Estimate  # noqa: E402
from perfdb.tables import read_table  # noqa: E402
from perfdb.validate import Score, score  # noqa: E402
from tools.alignment_record import BACKEND, ours  # noqa: E402

MOST = 600
SEED = 3


def split(path: Path, share: float) -> tuple[str, str]:
    """The text of a table without the rows that are hidden, and with those alone that are asked."""
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    hidden = random.Random(SEED).sample(lines, max(1, int(share * len(lines))))
    place = next(csv.reader([header])).index("case_id")
    cases = {row[place] for row in csv.reader(hidden)}
    kept = [
        line for line, row in zip(lines, csv.reader(lines), strict=True) if row[place] not in cases
    ]
    return header + "".join(kept), header + "".join(hidden[:MOST])


def asked(kind: OpKind, path: Path, system: str, data: Path, share: float) -> Score:
    """The score of the prices of the hidden rows of a table of `data`, which loses them."""
    kept, hidden = split(path, share)
    path.write_text(hidden, encoding="utf-8")
    rows = read_table(path, kind)
    path.write_text(kept, encoding="utf-8")
    db = PerfDatabase.load(system=system, backend=BACKEND, mode="hybrid", data=data)
    truth, value, deviation = numpy.empty((3, len(rows)))
    for params, places in rows.split([param.name for param in kind.params]):
        dims = {name: rows.columns[name][places] for name in kind.dims}
        found = db.price(kind, kind.complete(params), dims)
        truth[places] = numpy.log(rows.latency[places])
        value[places] = numpy.log(found.latency)
        deviation[places] = numpy.log1p(found.uncertainty)
    return score(truth, Estimate(value=value, deviation=deviation))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--system", default="h200_sxm")
    parser.add_argument("--share", type=float, default=0.1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = ours(Path(folder))
        for name, kind in op_kinds().items():
            if options.kinds and name not in options.kinds:
                continue
            try:
                path = find_table(kind, system=options.system, backend=BACKEND, data=data)
            except TraceModelError:
                continue
            one = asked(kind, path, options.system, data, options.share)
            print(
                f"{name:22} {one.rows:4} rows: median {one.median:.1%}, 90 % below {one.p90:.1%}, "
                f"bias {one.bias:+.1%}, within 1 and 2 sigma {one.within_1_sigma:.0%} {one.within_2_sigma:.0%}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
