"""Write docs/parity-prices.md: our price of each op against the reference's, on its own tables, differences explained.

`--check` writes nothing: it exits 1 when the page is out of date, and 0 with a note when the page was made with other
versions, where it cannot tell. Without the reference data or its package there is no answer: exit 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parity
from parity_lists import Json
from parity_page import made_with
from parity_records import Layout, Record, layout_of, records, text_of_layout

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parity-prices.md"
SYSTEM, BACKEND, VERSION = "h200_sxm", "trtllm", "1.3.0rc20"
Group = list[Any]  # of parity_pairs.Compared, which loads numpy


def compare_all(shared: Path, models: str = "") -> list[Group]:
    """Every record with its pairs, those of one model and layout together; `models` is a part of the names wanted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from parity_pairs import Compared, compare_record

    from oplib.errors import TraceModelError
    from perfdb.database import PerfDatabase
    from tracer.analysis import Options, analyse

    lists = {
        (entry["model"], layout_of(entry["parallel"])): entry
        for entry in parity.load(shared / "reference" / "op_lists.json")["entries"]
    }
    db = PerfDatabase.load(system=SYSTEM, backend=BACKEND, version=VERSION)
    bounds = PerfDatabase.load(system=SYSTEM, mode="sol")
    reports: dict[str, Json] = {}
    groups = []
    for (model, layout), of_layout in grouped(shared, models):
        print(model, text_of_layout(layout), file=sys.stderr)
        try:
            if model not in reports:
                folder = shared / "model_configs" / model.replace("/", "--")
                reports[model] = analyse(str(folder), Options())
            report = local(reports[model], layout)
        except TraceModelError as error:
            groups.append([Compared(record=r, failure=error.message) for r in of_layout])
            continue
        groups.append(
            [
                Compared(record=record, failure=f"the reference: {record.failure}")
                if record.failure
                else compare_record(record, report, lists[model, layout], db=db, bounds=bounds)
                for record in of_layout
            ]
        )
    return groups


def local(report: Json, layout: Layout) -> Json:
    from parity_local import local_report

    return local_report(report, layout)


def grouped(shared: Path, models: str) -> Iterator[tuple[tuple[str, Layout], list[Record]]]:
    """The records by model and layout, in the order of the file."""
    found: dict[tuple[str, Layout], list[Record]] = {}
    for record in records(parity.load(shared / "reference" / "op_prices.json")):
        if models in record.model:
            found.setdefault((record.model, record.layout), []).append(record)
    yield from found.items()


def page(shared: Path, versions: str) -> str:
    """The text of the page."""
    from parity_prices_page import render
    from parity_tails import tails

    from perfdb.database import PerfDatabase

    db = PerfDatabase.load(system=SYSTEM, backend=BACKEND, version=VERSION)
    return render(versions, compare_all(shared), db, list(tails(db)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a stale page"
    )
    check = parser.parse_args().check
    from oplib.errors import PerfDataNotAvailableError
    from perfdb.foreign import data_folder

    shared = next((folder for folder in parity.SHARED if (folder / "reference").is_dir()), None)
    if shared is None:
        print("no answer: the reference data (../shared/reference) is not here", file=sys.stderr)
        return 1
    try:
        data_folder()
    except PerfDataNotAvailableError as error:
        print(f"no answer: {error.message}", file=sys.stderr)
        return 1
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    here = parity.tools(shared)
    if check and old and made_with(old) != here:
        print(f"not checked: made with {made_with(old)}, here is {here}", file=sys.stderr)
        return 0
    text = page(shared, here)
    if check and text != old:
        print(f"{PAGE.name}: out of date, run: python tools/parity_prices.py")
        return 1
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    sys.exit(main())
