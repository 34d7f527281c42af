"""The columns of a table file as it is: CSV or Parquet, only those that are wanted, texts as codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from oplib.errors import InvalidInputError
from oplib.table_format import Value
from perfdb.columns import Coded, Column

if TYPE_CHECKING:
    import pyarrow

FINGERPRINT = ("framework", "version", "device", "kernel_source")
OPTIONAL = ("power", "energy", "idle_power", "spread")  # numbers that a row may lack


class RawColumns:
    """Columns of a file by name; a column that is asked for and is not there is an error that names the file."""

    def __init__(self, path: Path, columns: Mapping[str, Any], names: list[str]) -> None:
        """`columns` are arrays of pyarrow or numpy, or `Coded`; `names` are all that the file has."""
        self.path, self.names = path, names
        self._columns = dict(columns)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def numbers(self, name: str) -> Column:
        """A column of numbers; integers stay integers, times and what goes with them are always float64."""
        column = self._column(name)
        try:
            plain: Column = column.decode() if isinstance(column, Coded) else _plain(column)
            if plain.dtype.kind not in "if" or name in ("latency", "power", "spread"):
                plain = plain.astype(numpy.float64)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"Column {name!r} of {self.path} holds no numbers: {error}"
            ) from error
        return plain

    def coded(self, name: str, missing: Value | None = None) -> Coded:
        """A column of few distinct values; `missing` in each row where the file has none."""
        if name not in self._columns and missing is not None:
            return Coded.constant(missing, len(self))
        column = self._column(name)
        if not isinstance(column, Coded):
            column = self._columns[name] = _encode(column)
        return column

    def each(self, name: str, value: Callable[[Any], Value]) -> Column:
        """`value` of what each row has in a column."""
        return self.coded(name).each(value).decode()

    def take(self, chosen: Column) -> RawColumns:
        """The rows that a mask chooses."""
        taken: dict[str, Any] = {}  # Any: as in __init__
        for name, column in self._columns.items():
            if isinstance(column, Coded):
                taken[name] = column.take(chosen)
            elif _is_number(column):
                taken[name] = _plain(column)[chosen]
            else:
                taken[name] = _encode(column).take(chosen)
        return RawColumns(self.path, taken, self.names)

    def _column(self, name: str) -> Any:  # Any: Coded, or an array of pyarrow, which has no types
        if name not in self._columns:
            raise InvalidInputError(
                f"{self.path} has no column {name!r}.", f"It has: {', '.join(self.names)}."
            )
        return self._columns[name]


def read_columns(path: Path, wanted: list[str] | None = None) -> RawColumns:
    """The columns `wanted` of a file, as far as it has them; all of them where not given."""
    import pyarrow

    try:
        table, names = (_read_parquet if path.suffix == ".parquet" else _read_csv)(path, wanted)
    except (OSError, pyarrow.ArrowInvalid) as error:
        why = " ".join(str(error).split())[:200]  # a file that is no text spells lines of it
        raise InvalidInputError(f"{path} cannot be read as a table: {why}") from error
    columns = {  # a lone chunk is as it is: to combine it is to copy it
        name: column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    if wanted and not columns:
        raise InvalidInputError(
            f"{path} has none of the columns that are asked.",
            f"It has: {', '.join(names)}. Cells are separated by commas.",
        )
    for name, column in columns.items():
        if column.null_count and name in OPTIONAL:
            columns[name] = numpy.array(column.to_pylist(), dtype=numpy.float64)  # None is nan
        elif column.null_count:
            raise InvalidInputError(
                f"Column {name!r} of {path} is empty in {column.null_count} rows.",
                "Every row states all that it was measured with.",
            )
    return RawColumns(path, columns, names)


def _read_parquet(path: Path, wanted: list[str] | None) -> tuple[pyarrow.Table, list[str]]:
    from pyarrow import parquet, types

    schema = parquet.read_schema(path)
    kept = [name for name in schema.names if wanted is None or name in wanted]
    # Texts come as codes: to find codes later pyarrow would load all that it can compute.
    texts = [
        name
        for name in kept
        if types.is_string(type_ := schema.field(name).type) or types.is_large_string(type_)
    ]
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        return file.read(columns=kept, use_threads=False), schema.names


def _read_csv(path: Path, wanted: list[str] | None) -> tuple[pyarrow.Table, list[str]]:
    import pyarrow
    from pyarrow import csv, types

    coded = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    given = dict.fromkeys(FINGERPRINT, coded) | dict.fromkeys(OPTIONAL, pyarrow.float64())
    options = csv.ConvertOptions(
        strings_can_be_null=False,
        column_types=given,
        auto_dict_encode=True,
        auto_dict_max_cardinality=2**31 - 1,
    )
    table = csv.read_csv(path, convert_options=options)
    if twice := [name for name, times in Counter(table.column_names).items() if times > 1]:
        raise InvalidInputError(f"{path} has the column {twice[0]!r} several times.")
    for place, name in enumerate(table.column_names):  # empty in every row: a text that is empty
        if types.is_null(table.column(name).type):
            empty = pyarrow.array([""] * len(table), type=pyarrow.string())
            table = table.set_column(place, name, empty)
    kept = [name for name in table.column_names if wanted is None or name in wanted]
    return table.select(kept), table.column_names


def _encode(column: Any) -> Coded:  # Any: an array of pyarrow, which has no types
    """The codes of a column, values in their order."""
    import pyarrow

    if _is_number(column):
        return Coded.of(_plain(column))
    if not isinstance(column, pyarrow.DictionaryArray):
        return Coded.of(_plain(column))
    values = column.dictionary.to_pylist()
    numbers = all(type(value) in (int, float) for value in values)
    distinct = numpy.array(values, dtype=None if numbers else object)
    order = numpy.argsort(distinct, kind="stable")
    place = numpy.empty(len(order), dtype=numpy.int32)
    place[order] = numpy.arange(len(order), dtype=numpy.int32)
    return Coded(values=distinct[order], codes=place[_plain(column.indices)])


def _is_number(column: Any) -> bool:  # Any: an array of pyarrow, which has no types, or of numpy
    import pyarrow

    if isinstance(column, numpy.ndarray):
        return column.dtype.kind in "if"
    return bool(pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type))


def _plain(column: Any) -> Column:  # Any: an array of pyarrow, which has no types, or of numpy
    """An array without copying. `to_numpy` would load pandas, which takes longer than all tables."""
    if isinstance(column, numpy.ndarray):
        return column
    if _is_number(column):
        return numpy.from_dlpack(column)
    return numpy.array(column.to_pylist(), dtype=object)
