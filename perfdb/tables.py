"""Tables: the measured rows of one op kind, read from a file of ours or of AIConfigurator's.

A file is CSV (`<stem>.txt`) or Parquet (`<stem>.parquet`). What a row says of the op is translated into parameters and
dims of the kind (`oplib.table_format`); latency is in ms, power in W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from oplib.errors import InvalidInputError
from oplib.kind import OpKind
from oplib.params import Param, Required
from oplib.table_format import SameAs
from perfdb.arrays import Floats

Column: TypeAlias = NDArray[Any]  # Any: numbers, or texts as objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one kind. `columns` holds an array per parameter and dim, `kernel` which implementation ran, `row` the
    place of each in its file, counted from 1. `power` is None where the file has none."""

    kind: OpKind
    path: Path
    columns: Mapping[str, Column]
    kernel: Column
    row: NDArray[numpy.int64]
    latency: Floats
    power: Floats | None

    def __len__(self) -> int:
        return len(self.latency)

    def take(self, chosen: Column) -> Table:
        """The rows that a mask or an index array chooses."""
        return Table(
            kind=self.kind,
            path=self.path,
            columns={name: column[chosen] for name, column in self.columns.items()},
            kernel=self.kernel[chosen],
            row=self.row[chosen],
            latency=self.latency[chosen],
            power=None if self.power is None else self.power[chosen],
        )


def read_table(path: Path, kind: OpKind) -> Table:
    """The rows of `kind` in a file; a file that lacks a column, or holds none of its rows, is refused."""
    raw = _read_columns(path)
    form = kind.table_format
    count = len(next(iter(raw.values()), ()))
    belongs = numpy.ones(count, dtype=bool)
    for column, texts in form.rows.items():
        belongs &= numpy.isin(_column(raw, column, path), texts)
    if not belongs.any():
        raise InvalidInputError(f"{path} has no rows of {kind.name}.", f"It has {count} rows.")
    columns = {dim: _column(raw, form.column(dim), path) for dim in kind.dims}
    for param in kind.params:
        columns[param.name] = _parameter(raw, param, kind, path, count)
    for name, value in form.absent.items():
        if isinstance(value, SameAs) and form.column(name) not in raw:
            columns[name] = columns[value.name]
    table = Table(
        kind=kind,
        path=path,
        columns=columns,
        kernel=raw.get("kernel_source", numpy.full(count, "", dtype=object)),
        row=numpy.arange(1, count + 1),
        latency=_numbers(raw, "latency", path),
        power=_numbers(raw, "power", path) if "power" in raw else None,
    )
    return table.take(belongs)


def _read_columns(path: Path) -> dict[str, Column]:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        else:
            table = csv.read_csv(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InvalidInputError(f"{path} cannot be read as a table: {error}") from error
    return {
        name: column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _column(raw: Mapping[str, Column], name: str, path: Path) -> Column:
    if name not in raw:
        raise InvalidInputError(f"{path} has no column {name!r}.", f"It has: {', '.join(raw)}.")
    return raw[name]


def _numbers(raw: Mapping[str, Column], name: str, path: Path) -> Floats:
    try:
        return _column(raw, name, path).astype(numpy.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"Column {name!r} of {path} holds no numbers: {error}") from error


def _parameter(
    raw: Mapping[str, Column], param: Param, kind: OpKind, path: Path, count: int
) -> Column:
    """A parameter over all rows: its column in our spelling, or what it is where the file lacks the column."""
    form = kind.table_format
    if form.column(param.name) in raw:
        column = raw[form.column(param.name)]
        for theirs, ours in form.spellings.get(param.name, {}).items():
            column = numpy.where(column == theirs, ours, column)
        return column
    value = form.absent.get(param.name, param.default)
    if isinstance(value, Required):
        raise InvalidInputError(
            f"{path} has no column {form.column(param.name)!r}, and {kind.name} needs it.",
            f"It has: {', '.join(raw)}.",
        )
    return numpy.full(count, 0 if isinstance(value, SameAs) else value, dtype=object)
