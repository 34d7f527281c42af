"""Make docs/alignment.json of what align-model measured: rows without single kernels, priced by the tables of today.

    python tools/alignment_record.py CONFIGS FILE[=SAMPLING] ... [--before FOLDER]

A FILE is an `alignment.json`; of two files the first that has a row counts, and SAMPLING says how it was sampled.
docs/alignment.json itself is a FILE too, whose rows are priced anew. `predicted_ms` is by our tables with products at
the clock at which layers ran, those of the version `-rested`; `held_out_ms` by them without every point that the row's
model asks for: what a model would get that nobody has measured. `loaded_ms` is by our tables as `price-model` takes
them, `before_ms` by the tables in FOLDER.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from oplib.case import Case  # noqa: E402
from oplib.op import Op  # noqa: E402
from perfdb.backends import lowering_of  # noqa: E402
from perfdb.database import PerfDatabase  # noqa: E402
from tools.merge_tables import merge  # noqa: E402
from tracer import analysis  # noqa: E402
from tracer.quantization import QuantScheme  # noqa: E402
from tracer.submodules import submodules_of  # noqa: E402

Json = dict[str, Any]  # Any: an object that becomes JSON
SYSTEM, BACKEND = "h100_sxm", "torch"
LOWERING = lowering_of(BACKEND)
OURS = ROOT / "perfdb" / "data"
RESTED = "-rested"  # ends the version of rows whose samples do not follow each other at once
KEY = ("model", "submodule", "phase", "workload")
KEPT = (
    *KEY, "role", "standalone_ms", "measured_ms", "graph", "kernels_match", "kernels_differ", "difference", "note",
    "failed",
)  # fmt: skip


def sizes(workload: str) -> dict[str, int]:
    """b, s and p of BxSxP."""
    b, s, p = (*map(int, workload.split("x")), 0)[:3]
    return {"b": b, "s": s, "p": p}


def database(folder: Path) -> PerfDatabase:
    return PerfDatabase.load(system=SYSTEM, backend=BACKEND, mode="hybrid", data=folder)


def price(db: PerfDatabase, ops: tuple[Op, ...], workload: str) -> float:
    return sum(float(db.query(op, **sizes(workload))) for op in ops)


def case_ids(ops: tuple[Op, ...], workload: str) -> Iterator[str]:
    for op in ops:
        dims = {name: int(size) for name, size in op.dims_at(**sizes(workload)).items()}
        yield Case(op=op.op, params=dict(op.params), dims=dims).case_id


def rested(folder: Path) -> Path:
    """Our tables, the rows at rest in place of those under load or beside them."""
    ours = folder / SYSTEM / BACKEND
    shutil.copytree(OURS / SYSTEM / BACKEND, ours)
    for version in ours.glob(f"*{RESTED}"):
        for path in version.glob("*.txt"):
            merge(path, ours / version.name.removesuffix(RESTED) / path.name)
        shutil.rmtree(version)
    return folder


def without(hidden: set[str], folder: Path) -> Path:
    """Tables of `rested` but for the rows of these cases."""
    rested(folder)
    for path in (folder / SYSTEM / BACKEND).rglob("*.txt"):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if row["case_id"] not in hidden]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(reader.fieldnames or ()), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def compact(row: Json, sampling: str) -> Json:
    """The row with its ops in short and its kernels summed by name."""
    kernels: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for kernel in row["kernels"]:
        found = kernels[kernel["name"][:70]]
        found[0] += 1
        found[1] = round(found[1] + kernel["us"], 2)
    timing = row["timing"] or {}
    return {
        **{name: row[name] for name in KEPT},
        "sampling": sampling,
        "clock": timing.get("clock_after"),
        "spread": timing.get("spread"),
        "ops": [
            {name: op[name] for name in ("op", "name", "count", "variant", "standalone_ms", "measured_ms", "reason")}
            for op in row["ops"]
        ],
        "kernels": dict(sorted(kernels.items(), key=lambda item: -item[1][1])[:20]),
    }  # fmt: skip


def priced(rows: list[Json], configs: Path, before: Path | None) -> Iterator[Json]:
    """The rows with their prices, model by model."""
    loaded, old = database(OURS), database(before) if before else None
    with tempfile.TemporaryDirectory() as folder:
        yield from _priced(
            rows, configs, database(rested(Path(folder))), {"loaded_ms": loaded, "before_ms": old}
        )


def _priced(
    rows: list[Json], configs: Path, today: PerfDatabase, others: dict[str, PerfDatabase | None]
) -> Iterator[Json]:
    for model in dict.fromkeys(row["model"] for row in rows):
        print(model, file=sys.stderr, flush=True)
        traced = replace(analysis.trace_model(str(configs / model)), scheme=QuantScheme())
        parts = {part.name: part for part in submodules_of(traced)}
        own = [row for row in rows if row["model"] == model]
        ops = {id(row): parts[row["submodule"]].ops(row["phase"], LOWERING) for row in own}
        hidden = {one for row in own for one in case_ids(ops[id(row)], row["workload"])}
        with tempfile.TemporaryDirectory() as folder:
            unseen = database(without(hidden, Path(folder)))
            for row in own:
                row["predicted_ms"] = price(today, ops[id(row)], row["workload"])
                row["held_out_ms"] = price(unseen, ops[id(row)], row["workload"])
                for name, db in others.items():
                    if db is not None:
                        row[name] = price(db, ops[id(row)], row["workload"])
                measured = row["measured_ms"]
                row["gap"] = row["predicted_ms"] / measured - 1 if measured else None
                yield row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("configs", type=Path)
    parser.add_argument("files", nargs="+", metavar="FILE[=SAMPLING]")
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    found: dict[tuple[str, ...], Json] = {}
    for text in options.files:
        path, _, sampling = text.partition("=")
        for row in json.loads(Path(path).read_text(encoding="utf-8")):
            key = tuple(row[name] for name in KEY)
            if key not in found or found[key]["failed"]:
                found[key] = compact(row, sampling or "paired") if "timing" in row else row
    rows = list(priced(list(found.values()), options.configs, options.before))
    rows.sort(key=lambda row: [row[name] for name in KEY])
    lines = ",\n".join(json.dumps(row) for row in rows)
    (ROOT / "docs" / "alignment.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
