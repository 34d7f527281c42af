"""What is doubtful in tables: every row is checked, findings are grouped, nothing is dropped.

python -m perfdb.check --system h200_sxm --backend vllm --table gemm --json
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from oplib.command_line import Parser, run_command
from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from oplib.kind import OpKind
from oplib.op import kind, op_kinds
from perfdb.foreign import all_tables, find_tables
from perfdb.row_checks import HARMLESS, Checked, check_rows
from perfdb.systems import load_system
from perfdb.table_columns import read_columns
from perfdb.tables import Table, read_table, rows_of

Json: TypeAlias = dict[str, Any]  # Any: an object for JSON

MOST_SHOWN = 5  # rows that a line of text names


def check_table(path: Path, op_kind: OpKind, *, system: str, data: Path | None) -> Json:
    """The findings on the rows of a kind in one file, against the same kind in the other backends of the system."""
    table = read_table(path, op_kind)
    found = check_rows(table, load_system(system), list(_elsewhere(table, system, data)))
    return {
        "table": str(path),
        "op": op_kind.name,
        "rows": len(table),
        "doubtful": int(found.doubtful.sum()),
        "findings": _described(found),
        "known": _known(op_kind) if found.marks["below_speed_of_light"].any() else "",
    }


def _known(op_kind: OpKind) -> str:
    """What the docstring of the kind says of measured rows, under its heading Error."""
    doc = inspect.getdoc(type(op_kind)) or ""
    after = doc.partition("\nError:\n")[2].partition("\nSource:\n")[0]
    return " ".join(after.split())


def unclaimed(system: str, backend: str, version: str, data: Path | None) -> list[Json]:
    """Files of a backend with rows that no op kind takes, and how many they are; all rows of tables of modules."""
    rows = []
    for one in all_tables(system, data):
        if one.backend != backend or (version and one.version != version):
            continue
        kinds = [
            k for k in op_kinds().values() if any(f.stem == one.path.stem for f in k.table_formats)
        ]
        total = len(read_columns(one.path))
        claimed = sum(int(rows_of(one.path, k).sum()) for k in kinds)
        if claimed < total:
            rows.append({"table": str(one.path), "rows": total, "unclaimed": total - claimed})
    return rows


def _elsewhere(table: Table, system: str, data: Path | None) -> Iterator[Table]:
    """The kind's main tables in the other backends of the system."""
    here = set(table.path.parts[-3:-1])
    for backend in sorted({one.backend for one in all_tables(system, data)}):
        if backend in here:
            continue
        try:
            path = find_tables(table.kind, system=system, backend=backend, data=data)[0]
            if path != table.path:
                yield read_table(path, table.kind)
        except PerfDataNotAvailableError:
            continue


def _described(found: Checked) -> list[Json]:
    return [
        {
            "check": one.check,
            "reason": one.reason,
            "doubtful": one.check not in HARMLESS,
            "group": dict(one.group),
            "rows": list(one.rows),
        }
        for one in found.findings
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, check, print; 0, or 1 and 2 as the error says. Findings are an answer and not a failure."""
    argv = None if arguments is None else list(arguments)
    return run_command("perfdb.check", _run, argv)


def _run(argv: list[str]) -> int:
    parser = Parser(prog="python -m perfdb.check", description=__doc__)
    parser.add_argument("--system", required=True)
    parser.add_argument("--backend", required=True, help="trtllm, vllm, sglang, nccl")
    parser.add_argument("--version", default="", help="of the backend; the main one if not given")
    parser.add_argument(
        "--table", default="", help="an op kind; every one with a table if not given"
    )
    parser.add_argument(
        "--data", type=Path, help="a folder of tables instead of ours and the package's"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    report = _report(options)
    if options.json:
        print(json.dumps(report))
    else:
        _print(report)
    return 0


def _report(options: argparse.Namespace) -> Json:
    if options.table and options.table not in op_kinds():
        raise InvalidInputError(
            f"Unknown op kind {options.table!r}.", f"Known: {', '.join(op_kinds())}."
        )
    load_system(options.system)  # before any table is looked for; its peaks bound the rows
    kinds = [kind(options.table)] if options.table else list(op_kinds().values())
    where = {"system": options.system, "backend": options.backend, "version": options.version}
    tables = []
    for op_kind in kinds:
        try:
            path = find_tables(op_kind, **where, data=options.data)[0]
            tables.append(check_table(path, op_kind, system=options.system, data=options.data))
        except PerfDataNotAvailableError:
            if options.table:
                raise
    left = unclaimed(options.system, options.backend, options.version, options.data)
    return {"tables": tables, "unclaimed": [] if options.table else left}


def _print(report: Json) -> None:
    for table in report["tables"]:
        print(
            f"{table['op']}: {table['doubtful']} of {table['rows']} rows doubtful  {table['table']}"
        )
        for one in table["findings"]:
            rows = ", ".join(str(row) for row in one["rows"][:MOST_SHOWN])
            more = ", ..." if len(one["rows"]) > MOST_SHOWN else ""
            group = " ".join(f"{k}={v}" for k, v in one["group"].items() if v not in (0, False))
            print(
                f"  {one['check']}: {len(one['rows'])} rows ({rows}{more}) {one['reason']}  {group}"
            )
        if table["known"]:
            print(f"  known: {table['known']}")
    for one in report["unclaimed"]:
        print(f"no op takes {one['unclaimed']} of {one['rows']} rows of {one['table']}")


if __name__ == "__main__":
    sys.exit(main())
