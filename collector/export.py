"""From the log to tables: rows that are ok become `<op>_perf.txt`, with what they were measured with beside each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from collector.log import OK, latest, read_log
from oplib.errors import InvalidInputError
from oplib.registry import kind
from perfdb.table_file import Measurement, write_table

Json: TypeAlias = dict[str, Any]  # Any: an object decoded from JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A table and its rows."""

    path: Path
    rows: int


def export(logs: Iterable[Path], out: Path) -> list[Written]:
    """Write the tables of several logs to `out`; a case of a later log replaces that of an earlier one."""
    rows: dict[tuple[str, str, str], Json] = {}
    provenance: dict[str, Json] = {}
    for folder in logs:
        found, _ = read_log(folder)
        provenance |= {str(row["date"]): row for row in found if row["what"] == "provenance"}
        for key, row in latest(found).items():
            if row["status"] == OK or key not in rows:
                rows[key] = row
    by_op: dict[str, list[Measurement]] = {}
    for row, power, kernels in _joined(rows):
        by_op.setdefault(row["op"], []).append(
            measurement(row, power, kernels, provenance.get(row["provenance"], {}))
        )
    return list(_tables(by_op, out))


def _tables(by_op: dict[str, list[Measurement]], out: Path) -> Iterator[Written]:
    """A file per format: kinds that share one, as the collectives of NCCL do, have their rows one after the other.

    A format of another backend than the serving engine has a folder of that backend's name.
    """
    done: dict[Path, int] = {}
    for op, measured in sorted(by_op.items()):
        op_kind = kind(op)
        form = next((one for one in op_kind.table_formats if one.backend), op_kind.table_format)
        path = out / form.backend / f"{form.stem}.txt"
        before = path.read_text(encoding="utf-8") if path in done else ""
        write_table(path, op_kind, sorted(measured, key=_order))
        if before:
            header, _, rows = path.read_text(encoding="utf-8").partition("\n")
            if header != before.partition("\n")[0]:
                raise InvalidInputError(f"{op} has other columns than what {path} holds.")
            path.write_text(before + rows, encoding="utf-8")
        done[path] = done.get(path, 0) + len(measured)
    yield from (Written(path=path, rows=rows) for path, rows in done.items())


def _joined(
    rows: dict[tuple[str, str, str], Json],
) -> Iterator[tuple[Json, Json | None, list[str]]]:
    """Each timed row with its power and its kernel names, where they were taken."""
    for (what, variant, case_id), row in rows.items():
        power = rows.get(("power", variant, case_id))
        power = power if power is not None and power["status"] == OK else None
        if what == "power" and ("time", variant, case_id) not in rows:
            what = "time"
        if what != "time" or row["status"] != OK:
            continue
        names = rows.get(("names", variant, case_id), {})
        yield row, power, list(names.get("kernels", ()))


def measurement(row: Json, power: Json | None, kernels: list[str], shared: Json) -> Measurement:
    """The table's row of a row of the log."""
    timing = row["timing"]
    versions = shared.get("versions", {})
    return Measurement(
        params=row["params"],
        dims=row["dims"],
        latency=timing["latency"],
        power=None if power is None else power["timing"]["power"],
        framework="torch",
        version=str(versions.get("torch", "")),
        device=str(shared.get("device", "")),
        kernel_source=row["variant"],
        samples=timing["samples"],
        spread=timing["spread"],
        clock=timing["clock_after"],
        throttled=bool(timing["throttled"]),
        date=row["date"],
        extra={
            "calls": timing["calls"],
            "graph": timing["graph"],
            "flushed": timing["flushed"],
            "converged": timing["converged"],
            "clock_before": timing["clock_before"],
            "throttle_reasons": "+".join(timing["throttled"]) or "none",
            "idle_power": "" if power is None else power["timing"]["idle_power"],
            "driver": shared.get("driver") or "none",
            "cuda": shared.get("cuda") or "none",
            "kernels": "|".join(kernels) or "unknown",
            "case_id": row["case_id"],
        },
    )


def _order(row: Measurement) -> tuple[str, str, str]:
    dims = sorted((name, f"{size:012}") for name, size in row.dims.items())
    return row.kernel_source, str(sorted(row.params.items())), str(dims)
