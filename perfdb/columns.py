"""Columns of a table: parameters as codes into their few distinct values, so that 100,000 rows of text cost little."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from oplib.table_format import Value

Column: TypeAlias = NDArray[Any]  # Any: numbers, or texts as objects
Codes: TypeAlias = NDArray[numpy.int32]

_FEW = 1 << 18  # integers up to here are coded by counting and not by sorting


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """A column of n rows: row i has `values[codes[i]]`. Values are distinct; not each of them need occur."""

    values: Column
    codes: Codes

    @classmethod
    def of(cls, column: Column) -> Coded:
        """The codes of a plain column."""
        if column.dtype.kind == "b":
            return cls(values=numpy.array([False, True]), codes=column.astype(numpy.int32))
        if column.dtype.kind == "i" and len(column) and 0 <= column.min() <= column.max() <= _FEW:
            used = numpy.zeros(int(column.max()) + 1, dtype=numpy.int32)
            used[column] = 1
            return cls(
                values=numpy.flatnonzero(used),
                codes=(numpy.cumsum(used, dtype=numpy.int32) - 1)[column],
            )
        values, codes = numpy.unique(column, return_inverse=True)
        return cls(values=values, codes=codes.astype(numpy.int32))

    @classmethod
    def constant(cls, value: Any, count: int) -> Coded:  # Any: a parameter value
        """One value in each of `count` rows."""
        return cls(values=_array([value]), codes=numpy.zeros(count, dtype=numpy.int32))

    def __len__(self) -> int:
        return len(self.codes)

    def decode(self) -> Column:
        """The plain column."""
        return self.values[self.codes]

    def take(self, chosen: Column) -> Coded:
        """The rows that a mask or an index array chooses."""
        return Coded(values=self.values, codes=self.codes[chosen])

    def equal(self, value: Any) -> NDArray[numpy.bool_]:  # Any: a parameter value
        """Which rows have `value`."""
        same = numpy.array([bool(one == value) for one in self.values], dtype=bool)
        return same[self.codes]

    @property
    def used(self) -> list[Any]:  # Any: parameter values
        """The values that occur, as plain ones."""
        there = numpy.zeros(len(self.values), dtype=bool)
        there[self.codes] = True
        return [plain(value) for value in self.values[there]]

    def each(self, value: Callable[[Any], Value]) -> Coded:
        """`value` of what each row has; values that become equal share a code."""
        found = [value(plain(one)) for one in self.values]
        distinct = list(dict.fromkeys(found))
        place = numpy.array([distinct.index(one) for one in found], dtype=numpy.int32)
        return Coded(values=_array(distinct), codes=place[self.codes])


class Decoded(Mapping[str, Column]):
    """Parameters and dims of rows by name, each a plain array once it is asked for."""

    def __init__(self, coded: Mapping[str, Coded], plain: Mapping[str, Column]) -> None:
        self._coded, self._plain = coded, plain

    def __getitem__(self, name: str) -> Column:
        return self._plain[name] if name in self._plain else self._coded[name].decode()

    def __iter__(self) -> Iterator[str]:
        yield from self._coded
        yield from self._plain

    def __len__(self) -> int:
        return len(self._coded) + len(self._plain)


def code_of(columns: list[Coded], count: int) -> Codes:
    """One code per combination of values in `columns`, from 0 and without gaps, in the order of the values."""
    codes = numpy.zeros(count, dtype=numpy.int64)
    for column in columns:
        if len(column.values) == 1:
            continue
        codes = codes * len(column.values) + column.codes
        used = numpy.zeros(int(codes.max(initial=0)) + 1, dtype=numpy.int64)
        used[codes] = 1
        codes = (numpy.cumsum(used) - 1)[codes]
    return codes.astype(numpy.int32)


def codes_of(column: Column) -> tuple[Codes, int]:
    """A code per row of a plain column and how many distinct ones there are; texts in any order."""
    if column.dtype != object:
        values, codes = numpy.unique(column, return_inverse=True)
        return codes.astype(numpy.int32), len(values)
    places: dict[Any, int] = {}
    found = [places.setdefault(value, len(places)) for value in column]
    return numpy.array(found, dtype=numpy.int32), len(places)


def _array(values: list[Any]) -> Column:  # Any: parameter values
    """Numbers and truth values in arrays of their own type, all else as objects."""
    types = {type(value) for value in values}
    return numpy.array(values, dtype=None if types <= {int, float} or types == {bool} else object)


def plain(value: Any) -> Any:  # Any: a numpy scalar or an object
    """A number or text of numpy as one of Python."""
    return value.item() if isinstance(value, numpy.generic) else value
