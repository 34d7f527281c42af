"""Trace every model type of transformers that has a language model, and write docs/coverage.md and docs/coverage.json.

Each type runs in a worker process that is killed after --timeout seconds. --only and --third print their rows and write
nothing, or put them into the committed ones with --update. --check compares with those and exits 1 when a type that
traces exactly there does not do so here; seconds are not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import coverage_page
import coverage_rows
from bench import machine
from zoo import Specimen, chosen, known

Row = dict[str, Any]  # Any: a JSON object


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def compare(rows: Mapping[str, Row], old: Mapping[str, Row]) -> int:
    """Print what differs from the committed rows; 1 when a proof is lost."""
    lost = 0
    for key, row in rows.items():
        if key not in old:
            print(f"{key}: not in the committed table")
            continue
        found = coverage_rows.differences(old[key], row)
        worse = coverage_rows.proved(old[key]) and not coverage_rows.proved(row)
        lost += worse
        if found:
            print(f"{'LOST ' if worse else ''}{key}: {'; '.join(found)}; {row['error']}")
    print(f"{len(rows)} types compared, {lost} no longer trace exactly")
    return 1 if lost else 0


def pick(specimens: Mapping[str, Specimen], arguments: argparse.Namespace) -> list[Specimen]:
    """The types that the arguments ask for."""
    if arguments.only:
        return chosen(specimens, arguments.only)
    if arguments.third:
        return [
            specimens[k]
            for k in coverage_rows.third(k for k, s in specimens.items() if not s.no_decoder)
        ]
    return list(specimens.values())


def write(record: Row) -> None:
    """The record, a row a line, and the page made of it."""
    head = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in record.items() if k != "rows"]
    rows = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in record["rows"].items()]
    text = "{\n" + ",\n".join([*head, '"rows": {\n' + ",\n".join(rows) + "\n}"]) + "\n}\n"
    coverage_rows.RECORD.write_text(text, encoding="utf-8")
    coverage_page.PAGE.write_text(coverage_page.render(json.loads(text)), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these types")
    parser.add_argument("--third", action="store_true", help="every third type in sorted order")
    parser.add_argument("--update", action="store_true", help="put rows into the committed ones")
    parser.add_argument("--check", action="store_true", help="compare with the committed rows")
    parser.add_argument("--json", action="store_true", help="print the record")
    parser.add_argument("--jobs", type=int, default=cores(), help="worker processes (all cores)")
    parser.add_argument("--timeout", type=float, default=90, help="seconds per type (90)")
    parser.add_argument("--memory", type=float, default=6, help="GB per worker process (6)")
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
    part = bool(arguments.only or arguments.third)
    if arguments.json:
        print(json.dumps(record, indent=1))
    if arguments.check:
        return compare(rows, coverage_rows.recorded()["rows"])
    if part and arguments.update:
        write(joined(coverage_rows.recorded(), record))
    elif not (part or arguments.json):
        write(record)
    elif not arguments.json:
        print("\n".join(coverage_page.line(row) for row in rows.values()))
    return 0


def joined(old: Row, new: Row) -> Row:
    """The old record with the new rows; machine and total stay those of the last run over all types."""
    for name in ("torch", "transformers"):
        if old["made_with"][name] != new["made_with"][name]:
            raise SystemExit(f"the committed rows are of {name} {old['made_with'][name]}")
    rows = dict(sorted((old["rows"] | new["rows"]).items()))
    return old | {"no_decoder": new["no_decoder"], "rows": rows}


if __name__ == "__main__":
    sys.path[:0] = [str(coverage_rows.ROOT)]
    sys.exit(main())
