"""docs/coverage.json, the committed coverage: how it is written, added to and compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coverage_rows import PHASES

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "coverage.json"
COMPARED = ("phases", "exact", "situation")
Row = dict[str, Any]  # Any: a JSON object


def third(keys: Iterable[str]) -> list[str]:
    """Every third key in sorted order: what each run of the tests checks."""
    return sorted(keys)[::3]


def recorded() -> Row:
    """The committed record: `made_with`, `wall_s`, `no_decoder`, and `rows` by key."""
    found: Row = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def text_of(record: Row) -> str:
    """The record as it is committed, a row a line."""
    head = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in record.items() if k != "rows"]
    rows = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in record["rows"].items()]
    return "{\n" + ",\n".join([*head, '"rows": {\n' + ",\n".join(rows) + "\n}"]) + "\n}\n"


def joined(old: Row, new: Row) -> Row:
    """The old record with the new rows; machine and total stay those of the last run over all types."""
    for name in ("torch", "transformers"):
        if old["made_with"][name] != new["made_with"][name]:
            raise SystemExit(f"the committed rows are of {name} {old['made_with'][name]}")
    rows = dict(sorted((old["rows"] | new["rows"]).items()))
    return old | {"no_decoder": new["no_decoder"], "rows": rows}


def proved(row: Mapping[str, Any]) -> bool:
    """Whether both phases trace and nothing is lost."""
    return len(row["phases"]) == len(PHASES) and row["exact"]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two rows of a type, seconds and counts left out."""
    return [f"{n}: {old[n]!r}, here {new[n]!r}" for n in COMPARED if old[n] != new[n]]


def compare(rows: Mapping[str, Row], old: Mapping[str, Row]) -> int:
    """Print what differs from the committed rows; 1 when a proof is lost."""
    lost = 0
    for key, row in rows.items():
        if key not in old:
            print(f"{key}: not in the committed table")
            continue
        found = differences(old[key], row)
        worse = proved(old[key]) and not proved(row)
        lost += worse
        if found:
            print(f"{'LOST ' if worse else ''}{key}: {'; '.join(found)}; {row['error']}")
    print(f"{len(rows)} types compared, {lost} no longer trace exactly")
    return 1 if lost else 0
