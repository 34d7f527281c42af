"""Make docs/alignment.json of what align-model measured: rows without single kernels, priced by the tables of today.

    python tools/alignment_record.py CONFIGS FILE ...

A FILE is an `alignment.json`; of two files the first that has a row counts. docs/alignment.json itself is a FILE too,
whose rows are priced anew. `predicted_ms` is by our tables as `price-model` takes them, beside `measured_ms`, which is
under load; `rested_predicted_ms` is by the same with products at rest, those of the version `-rested`, beside
`rested_ms`. `held_out_ms` and `rested_held_out_ms` are by tables without every point that the row's model asks for:
what a model would get that nobody has measured.
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

from collector.align.settings import Settings  # noqa: E402
from collector.align.whole import Whole  # noqa: E402
from collector.align.workloads import parse_workload  # noqa: E402
from oplib.case import Case  # noqa: E402
from oplib.command_line import Progress  # noqa: E402
from oplib.op import Op  # noqa: E402
from perfdb.backends import lowering_of  # noqa: E402
from perfdb.database import PerfDatabase  # noqa: E402
from tools.merge_tables import merge  # noqa: E402
from tracer import analysis  # noqa: E402
from tracer.quantization import QuantScheme  # noqa: E402
from tracer.submodules import submodules_of  # noqa: E402

Json = dict[str, Any]  # Any: an object that becomes JSON
BACKEND = "torch"
LOWERING = lowering_of(BACKEND)
OURS = ROOT / "perfdb" / "data"
RESTED = "-rested"  # ends the version of rows whose samples do not follow each other at once
KEY = ("system", "model", "submodule", "phase", "workload", "one_graph")
KEPT = (
    *KEY, "layers", "role", "standalone_ms", "measured_ms", "rested_ms", "rested_spread", "graph", "kernels_match",
    "kernels_differ", "difference", "note", "failed",
)  # fmt: skip


def sizes(workload: str) -> dict[str, int]:
    """b, s and p of BxSxP."""
    b, s, p = (*map(int, workload.split("x")), 0)[:3]
    return {"b": b, "s": s, "p": p}


def database(system: str, folder: Path) -> PerfDatabase:
    return PerfDatabase.load(system=system, backend=BACKEND, mode="hybrid", data=folder)


def price(db: PerfDatabase, ops: tuple[Op, ...], workload: str) -> float:
    return sum(float(db.query(op, **sizes(workload))) for op in ops)


def case_ids(ops: tuple[Op, ...], workload: str) -> Iterator[str]:
    for op in ops:
        dims = {name: int(size) for name, size in op.dims_at(**sizes(workload)).items()}
        yield Case(op=op.op, params=dict(op.params), dims=dims).case_id


def ours(folder: Path) -> Path:
    """Our tables, products under load."""
    for tables in OURS.glob(f"*/{BACKEND}"):
        shutil.copytree(
            tables, folder / tables.relative_to(OURS), ignore=shutil.ignore_patterns(f"*{RESTED}")
        )
    return folder


def rested(folder: Path) -> Path:
    """Our tables, the rows at rest in place of those under load or beside them."""
    ours(folder)
    for path in OURS.glob(f"*/{BACKEND}/*{RESTED}/*.txt"):
        version = path.parent.relative_to(OURS)
        merge(path, folder / version.with_name(version.name.removesuffix(RESTED)) / path.name)
    return folder


def without(hidden: set[str], folder: Path) -> Path:
    """The tables in a folder but for the rows of these cases."""
    for path in folder.rglob("*.txt"):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if row["case_id"] not in hidden]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(reader.fieldnames or ()), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def compact(row: Json) -> Json:
    """The row with its ops in short and its kernels summed by name."""
    kernels: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for kernel in row["kernels"]:
        found = kernels[kernel["name"][:70]]
        found[0] += 1
        found[1] = round(found[1] + kernel["us"], 2)
    timing = row["timing"] or {}
    return {
        **{name: row.get(name) for name in KEPT},
        "clock": timing.get("clock_after"),
        "spread": timing.get("spread"),
        "ops": [
            {name: op[name] for name in ("op", "name", "count", "variant", "standalone_ms", "measured_ms", "reason")}
            for op in row["ops"]
        ],
        "kernels": dict(sorted(kernels.items(), key=lambda item: -item[1][1])[:20]),
    }  # fmt: skip


def has_experts(model: Path) -> bool:
    """Whether the config states how many experts there are."""
    raw = json.loads((model / "config.json").read_text(encoding="utf-8"))
    sections = [raw, raw.get("text_config") or {}]
    return any(
        "experts" in name and isinstance(value, int) and value > 1
        for section in sections
        for name, value in section.items()
    )


def priced(system: str, rows: list[Json], configs: Path) -> Iterator[Json]:
    """The rows of a system with their prices, model by model."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        today = {
            "predicted_ms": database(system, ours(Path(one))),
            "rested_predicted_ms": database(system, rested(Path(other))),
        }
        for model in dict.fromkeys(row["model"] for row in rows):
            print(model, file=sys.stderr, flush=True)
            mixed = has_experts(configs / model)
            own = [row | {"experts": mixed} for row in rows if row["model"] == model]
            whole = [row for row in own if row["role"] == "model"]
            yield from _whole(whole, configs / model, today["predicted_ms"])
            yield from _parts(
                system, [row for row in own if row not in whole], configs / model, today
            )


def _whole(rows: list[Json], config: Path, db: PerfDatabase) -> Iterator[Json]:
    """Rows of whole models: what price-model says."""
    for depth in {row["layers"] for row in rows}:
        settings = Settings(model=str(config), device="cpu", variants={})
        model = Whole(str(config), depth, settings, db, Progress())
        for row in rows:
            if row["layers"] == depth:
                ms, _ = model.price(row["phase"], parse_workload(row["workload"]))
                yield _told(row | {"predicted_ms": ms})


def _parts(
    system: str, rows: list[Json], config: Path, today: dict[str, PerfDatabase]
) -> Iterator[Json]:
    """Rows of sub-modules, also with every point hidden that any of them asks for."""
    if not rows:
        return
    traced = replace(analysis.trace_model(str(config)), scheme=QuantScheme())
    parts = {part.name: part for part in submodules_of(traced)}
    ops = [parts[row["submodule"]].ops(row["phase"], LOWERING) for row in rows]
    hidden = {
        one for row, own in zip(rows, ops, strict=True) for one in case_ids(own, row["workload"])
    }
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        tables = today | {
            "held_out_ms": database(system, without(hidden, ours(Path(one)))),
            "rested_held_out_ms": database(system, without(hidden, rested(Path(other)))),
        }
        for row, own in zip(rows, ops, strict=True):
            yield _told(
                row | {name: price(db, own, row["workload"]) for name, db in tables.items()}
            )


def _told(row: Json) -> Json:
    measured = row["measured_ms"]
    return row | {"gap": row["predicted_ms"] / measured - 1 if measured else None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("configs", type=Path)
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
    options = parser.parse_args()
    found: dict[tuple[str, ...], Json] = {}
    for path in options.files:
        for row in json.loads(path.read_text(encoding="utf-8")):
            key = tuple(row.get(name) for name in KEY)
            if key not in found or found[key]["failed"]:
                found[key] = compact(row) if "timing" in row else row
    systems = dict.fromkeys(row["system"] for row in found.values())
    rows = [
        row
        for system in systems
        for row in priced(
            system, [r for r in found.values() if r["system"] == system], options.configs
        )
    ]
    rows.sort(key=lambda row: [str(row[name]) for name in KEY])
    lines = ",\n".join(json.dumps(row) for row in rows)
    (ROOT / "docs" / "alignment.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
