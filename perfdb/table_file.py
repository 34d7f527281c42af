"""Our table files: measurements written as CSV that `perfdb.tables.read_table` reads back identically.

Columns: framework, version, device, op_name, kernel_source; the parameters and dims in the spelling of the format;
latency (ms), power (W), energy (W*ms); then provenance. Where the published tables have the op its columns are theirs,
beside columns of our own for parameters that they lack.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from oplib.errors import InvalidInputError
from oplib.kind import OpKind
from oplib.params import Params
from oplib.table_format import TableFormat
from perfdb.columns import Coded
from perfdb.table_columns import RawColumns
from perfdb.tables import format_of

PROVENANCE = ("samples", "spread", "clock", "throttled", "date")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row: what was measured, with what, and how long it took (`latency` ms, `power` W, None where not known).

    `spread` is the relative spread of the samples, `clock` that of the SMs in MHz, `date` is ISO 8601; `extra` becomes
    columns behind them, the same in every row of a table.
    """

    params: Params
    dims: Mapping[str, int]
    latency: float
    power: float | None = None
    framework: str
    version: str
    device: str
    kernel_source: str
    samples: int = 1
    spread: float = 0.0
    clock: float = 0.0
    throttled: bool = False
    date: str = ""
    extra: Mapping[str, str | float | bool] = field(default_factory=dict)


def write_table(path: Path, kind: OpKind, rows: Sequence[Measurement]) -> None:
    """Write measurements of a kind to `path`, whose name is the stem of one of its formats, with the ending `.txt`.

    Power and energy are columns where any row has them, and nan in the others.
    """
    if path.suffix != ".txt":
        raise InvalidInputError(f"{path} is no name of a table.", "Ours end in .txt and are CSV.")
    if not rows:
        raise InvalidInputError(f"{path} would have no rows.", "Give at least one measurement.")
    form = format_of(path, kind)
    columns = {
        "framework": [row.framework for row in rows],
        "version": [row.version for row in rows],
        "device": [row.device for row in rows],
        "op_name": [_op_name(kind, form)] * len(rows),
        "kernel_source": [row.kernel_source for row in rows],
        **_spelled(kind, form, rows, path),
        **_results(rows),
        **{name: [getattr(row, name) for row in rows] for name in PROVENANCE},  # its own fields
        **{name: [row.extra[name] for row in rows] for name in rows[0].extra},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _op_name(kind: OpKind, form: TableFormat) -> str:
    patterns = form.rows.get("op_name", (kind.name,))
    return patterns[0]


def _results(rows: Sequence[Measurement]) -> dict[str, list[Any]]:  # Any: numbers
    columns = {"latency": [row.latency for row in rows]}
    if any(row.power is not None for row in rows):
        power = [numpy.nan if row.power is None else row.power for row in rows]
        energy = [watts * row.latency for watts, row in zip(power, rows, strict=True)]
        columns |= {"power": power, "energy": energy}
    return columns


def _spelled(
    kind: OpKind, form: TableFormat, rows: Sequence[Measurement], path: Path
) -> dict[str, list[Any]]:  # Any: numbers and texts
    """The columns of parameters and dims."""
    complete = [kind.validate(row.params, row.dims) for row in rows]
    ours = {param.name: [one[param.name] for one in complete] for param in kind.params}
    ours |= {dim: [row.dims[dim] for row in rows] for dim in kind.dims}
    values = RawColumns(path, {name: _coded(column) for name, column in ours.items()}, list(ours))
    columns: dict[str, list[Any]] = {}
    for name, column in ours.items():
        if name in form.derived:
            write = form.derived[name].write
            if write is None:
                raise InvalidInputError(
                    f"{path} cannot be written: {form.stem} is a table of others.",
                    f"Measurements of {kind.name} go into {kind.table_format.stem}.txt.",
                )
            for theirs, cells in write(values).items():
                columns[theirs] = numpy.asarray(cells).tolist()
        else:
            spellings = form.spellings.get(name, {}).items()
            texts: dict[Any, str] = {value: text for text, value in reversed(list(spellings))}
            columns[form.column(name)] = [texts.get(cell, cell) for cell in column]
    return columns


def _coded(column: list[Any]) -> Coded:  # Any: parameter values
    texts = any(isinstance(cell, str | bool) for cell in column)
    return Coded.of(numpy.array(column, dtype=object if texts else None))
