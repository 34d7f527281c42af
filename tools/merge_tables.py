"""Put the rows of newly exported tables into a folder of ours; of a case, a kernel and a device the new row counts.

Where the new row has no power and the old one has, that stays, and the energy is that power times the new latency.

python tools/merge_tables.py NEW_FOLDER perfdb/data/SYSTEM/BACKEND/VERSION
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

POWER = ("power", "energy")  # columns that a table without such rows lacks


def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return list(reader.fieldnames or ()), rows


def _power(new: dict[str, str], old: dict[str, str]) -> dict[str, str]:
    """What an old row knows of the power of a new one."""
    power = old.get("power", "nan")
    if power == "nan" or new.get("power", "nan") != "nan":
        return {}
    return {
        "power": power,
        "energy": repr(float(power) * float(new["latency"])),
        "idle_power": old["idle_power"],
    }


def merge(new: Path, old: Path) -> tuple[int, int]:
    """Rows that were replaced and rows that were added."""
    fields, rows = read(new)
    known, before = read(old) if old.exists() else (fields, [])
    if set(known) - set(POWER) != set(fields) - set(POWER):
        raise SystemExit(f"{new} has other columns than {old}")
    columns = known if len(known) >= len(fields) else fields
    found = {(r["device"], r["kernel_source"], r["case_id"]): r for r in before}
    size = len(found)
    for row in rows:
        key = (row["device"], row["kernel_source"], row["case_id"])
        found[key] = row | _power(row, found.get(key, {}))
    with old.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="nan", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found.values())
    return len(rows) - (len(found) - size), len(found) - size


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    new, old = map(Path, sys.argv[1:])
    for path in sorted(new.glob("*.txt")):
        replaced, added = merge(path, old / path.name)
        print(f"{path.name}: {replaced} replaced, {added} added")
    return 0


if __name__ == "__main__":
    sys.exit(main())
