"""Trace every model type of transformers that has a language model, and write docs/coverage.md and docs/coverage.json.

Each type runs in a worker process that is killed after --timeout seconds. --only and --third print their rows and write
nothing, or put them into the committed ones with --update. --check compares with those and exits 1 when a type that
traces exactly there does not do so here; seconds are not compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import coverage_page
import coverage_record
import coverage_rows
from bench import cores, machine
from zoo import Specimen, chosen, known

Row = dict[str, Any]  # Any: a JSON object


def measure(specimens: Iterable[Specimen], arguments: argparse.Namespace) -> dict[str, Row]:
    """The rows by key, in sorted order; progress goes to stderr."""
    todo = [one for one in specimens if not one.no_decoder]
    start, found = time.monotonic(), dict[str, Row]()
    limits = {"jobs": arguments.jobs, "seconds": arguments.timeout, "memory_gb": arguments.memory}
    for row in coverage_rows.rows(todo, **limits):
        found[row["type"]] = row
        passed = time.monotonic() - start
        left = passed / len(found) * (len(todo) - len(found))
        said = f"{len(found)}/{len(todo)} {len(found) / passed:.1f}/s {left:.0f} s left"
        print(f"{said}  {coverage_page.line(row)}", file=sys.stderr, flush=True)
    return dict(sorted(found.items()))


def pick(specimens: Mapping[str, Specimen], arguments: argparse.Namespace) -> list[Specimen]:
    """The types that the arguments ask for."""
    if arguments.only:
        return chosen(specimens, arguments.only)
    if arguments.third:
        return [
            specimens[k]
            for k in coverage_record.third(k for k, s in specimens.items() if not s.no_decoder)
        ]
    return list(specimens.values())


def write(record: Row) -> None:
    """The record and the page made of it."""
    text = coverage_record.text_of(record)
    coverage_record.RECORD.write_text(text, encoding="utf-8")
    coverage_page.PAGE.write_text(coverage_page.render(json.loads(text)), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these types")
    parser.add_argument("--third", action="store_true", help="every third type in sorted order")
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--update", action="store_true", help="put rows into the committed ones")
    then.add_argument("--check", action="store_true", help="compare with the committed rows")
    then.add_argument("--json", action="store_true", help="print the record and write nothing")
    parser.add_argument("--jobs", type=int, default=cores(), help="worker processes (all cores)")
    parser.add_argument("--timeout", type=float, default=90, help="seconds per type (90)")
    parser.add_argument("--memory", type=float, default=4, help="GB per worker process (4)")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    here, specimens = machine(), known()
    start = time.monotonic()
    rows = measure(pick(specimens, arguments), arguments)
    from tracer.analysis import versions

    record: Row = {
        "made_with": here | {"workers": arguments.jobs} | versions(),
        "wall_s": round(time.monotonic() - start, 1),
        "no_decoder": {k: s.no_decoder for k, s in specimens.items() if s.no_decoder},
        "rows": rows,
    }
    if arguments.check:
        return coverage_record.compare(rows, coverage_record.recorded()["rows"])
    if arguments.json:
        print(json.dumps(record, indent=1))
    elif arguments.update:
        write(coverage_record.joined(coverage_record.recorded(), record))
    elif arguments.only or arguments.third:
        print("\n".join(coverage_page.line(row) for row in rows.values()))
    else:
        write(record)
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(coverage_record.ROOT)]
    sys.exit(main())
