"""Tables: the measured rows of one op kind, read from a file of ours or of AIConfigurator's.

A file is CSV (`<stem>.txt`) or Parquet (`<stem>.parquet`). What a row says of the op is translated into parameters and
dims of the kind (`oplib.table_format`); latency is in ms, power in W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import numpy
from numpy.typing import NDArray

from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from oplib.kind import OpKind
from oplib.params import Param, ParamValue, Required
from oplib.table_format import SameAs, TableFormat, Value
from perfdb.arrays import Floats, Ints
from perfdb.columns import Coded, Column, Decoded, code_of
from perfdb.table_columns import FINGERPRINT, RawColumns, read_columns

_RESULTS = ("latency", "power", "spread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one kind. `params` holds a column per parameter, `dims` an array per dim, `fingerprint` what ran
    (framework, version, device, kernel_source), `row` the place of each in its file, counted from 1; `implied` holds
    the coordinates that follow from parameters and dims. `power` and `spread` (relative, of the samples) are None where
    the file has none."""

    kind: OpKind
    path: Path
    params: Mapping[str, Coded]
    dims: Mapping[str, Column]
    fingerprint: Mapping[str, Coded]
    row: NDArray[numpy.int64]
    latency: Floats
    power: Floats | None
    spread: Floats | None = None
    implied: Mapping[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latency)

    @property
    def columns(self) -> Mapping[str, Column]:
        """Parameters, dims and what they imply by name, as plain arrays."""
        return Decoded(self.params, {**self.dims, **self.implied})

    @property
    def kernel(self) -> Column:
        """Which implementation ran, per row."""
        return self.fingerprint["kernel_source"].decode()

    def take(self, chosen: Column) -> Table:
        """The rows that a mask or an index array chooses."""
        return Table(
            kind=self.kind,
            path=self.path,
            params={name: column.take(chosen) for name, column in self.params.items()},
            dims={name: column[chosen] for name, column in self.dims.items()},
            fingerprint={name: column.take(chosen) for name, column in self.fingerprint.items()},
            row=self.row[chosen],
            latency=self.latency[chosen],
            power=None if self.power is None else self.power[chosen],
            spread=None if self.spread is None else self.spread[chosen],
            implied={name: column[chosen] for name, column in self.implied.items()},
        )

    def split(self, names: list[str]) -> Iterator[tuple[dict[str, ParamValue], Ints]]:
        """Each combination of values of the parameters `names`, and the places of the rows that have it."""
        codes = code_of([self.params[name] for name in names], len(self))
        order = numpy.argsort(codes, kind="stable")
        starts = numpy.flatnonzero(numpy.diff(codes[order], prepend=-1))
        first = order[starts]
        values = [self.params[name].take(first).decode().tolist() for name in names]
        ends = [*starts[1:].tolist(), len(order)]
        for place, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
            shared = {name: value[place] for name, value in zip(names, values, strict=True)}
            yield shared, order[start:end]


def read_table(path: Path, kind: OpKind) -> Table:
    """The rows of `kind` in a file; a file that lacks a column, or holds none of its rows, is refused."""
    form = format_of(path, kind)
    raw = read_columns(path, wanted_columns(kind, form))
    belongs = _belongs(raw, form)
    if not belongs.any():
        raise PerfDataNotAvailableError(
            f"{path} has no rows of {kind.name}.", f"It has {len(raw)} of other ops."
        )
    if not belongs.all():
        raw = raw.take(belongs)
    params = {param.name: _parameter(raw, param, kind, form) for param in kind.params}
    for name, value in form.absent.items():
        if isinstance(value, SameAs) and form.column(name) not in raw:
            params[name] = params[value.name]
    found = Table(
        kind=kind,
        path=path,
        params=params,
        dims={dim: _dim(raw, dim, form) for dim in kind.dims},
        fingerprint={name: raw.coded(name, missing="") for name in FINGERPRINT},
        row=numpy.flatnonzero(belongs) + 1,
        latency=raw.numbers("latency"),
        power=raw.numbers("power") if "power" in raw else None,
        spread=raw.numbers("spread") if "spread" in raw else None,
    )
    return _with_implied(found)


def _with_implied(table: Table) -> Table:
    """The table with what each row's parameters and dims imply; nan where the parameters describe no op."""
    kind = table.kind
    if not kind.implied:
        return table
    found = {name: numpy.full(len(table), numpy.nan) for name in kind.implied}
    for params, places in table.split(list(table.params)):
        try:
            params = kind.complete(params)
        except InvalidInputError:
            continue
        sizes = {name: column[places] for name, column in table.dims.items()}
        for name, values in kind.imply(params, sizes).items():
            found[name][places] = values
    return replace(table, implied=found)


def format_of(path: Path, kind: OpKind) -> TableFormat:
    """The format of `kind` that a file's name asks for."""
    forms = {form.stem: form for form in kind.table_formats}
    if path.stem not in forms:
        raise InvalidInputError(
            f"{path} is no table of {kind.name}.", f"Its tables: {', '.join(forms)}."
        )
    return forms[path.stem]


def wanted_columns(kind: OpKind, form: TableFormat) -> list[str]:
    """The columns of a file that say something of `kind`."""
    derived = [column for one in form.derived.values() for column in one.columns]
    named = [
        form.column(name)
        for name in (*(param.name for param in kind.params), *kind.dims)
        if name not in form.derived
    ]
    return list(dict.fromkeys([*FINGERPRINT, *form.rows, *derived, *named, *_RESULTS]))


def rows_of(path: Path, kind: OpKind) -> NDArray[numpy.bool_]:
    """Which rows of a file are of a kind, in the order of the file."""
    form = format_of(path, kind)
    return _belongs(read_columns(path, [*form.rows, "latency"]), form)


def _belongs(raw: RawColumns, form: TableFormat) -> NDArray[numpy.bool_]:
    belongs = numpy.ones(len(raw), dtype=bool)
    for column, patterns in form.rows.items():
        belongs &= raw.coded(column).each(_matcher(patterns)).decode().astype(bool)
    return belongs


def _matcher(patterns: tuple[str, ...]) -> Callable[[Any], bool]:  # Any: what a file has there
    return lambda text: any(fnmatchcase(str(text), pattern) for pattern in patterns)


def _dim(raw: RawColumns, name: str, form: TableFormat) -> Column:
    if name in form.derived:
        return cast(Column, form.derived[name].read(raw))
    return raw.numbers(form.column(name))


def _parameter(raw: RawColumns, param: Param, kind: OpKind, form: TableFormat) -> Coded:
    """A parameter over all rows: its column in our spelling, or what it is where the file lacks the column."""
    if param.name in form.derived:
        found = form.derived[param.name].read(raw)
        if isinstance(found, Coded):
            return found
        return _typed(Coded.of(found), param, f"{raw.path}, for {param.name!r},")
    if form.column(param.name) in raw:
        spellings = form.spellings.get(param.name, {})
        column = raw.coded(form.column(param.name))
        spelled = column.each(lambda text: spellings.get(text, text)) if spellings else column
        return _typed(spelled, param, f"Column {form.column(param.name)!r} of {raw.path}")
    value = form.absent.get(param.name, param.default)
    if isinstance(value, Required):
        raise InvalidInputError(
            f"{raw.path} has no column {form.column(param.name)!r}, and {kind.name} needs it.",
            f"It has: {', '.join(raw.names)}.",
        )
    return Coded.constant(0 if isinstance(value, SameAs) else value, len(raw))


def _typed(column: Coded, param: Param, where: str) -> Coded:
    """Numbers of a file in the type of the parameter: 1 is true where it is a bool, 2.0 is 2 where it is an int.

    InvalidInputError where one is of no such type.
    """

    def convert(value: Any) -> Value:  # Any: what a file has there
        if isinstance(value, str) and param.type in (int, float):
            value = _number(value)  # beside a text all cells of a column are texts
        if param.type is bool and value in (0, 1, "True", "False", "true", "false"):
            return value in (1, "True", "true")
        if param.type is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if param.type is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if param.type in (bool, int, float) and type(value) is not param.type:
            raise InvalidInputError(f"{where} has {value!r}.", f"It takes {param.type.__name__}.")
        return cast(Value, value)

    return column.each(convert)


def _number(text: str) -> Value:
    """The number that a text is, else the text."""
    try:
        return float(text)
    except ValueError:
        return text
