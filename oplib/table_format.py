"""TableFormat: how a file of measurements spells an op kind.

Where the tables of AIConfigurator (aiconfigurator-core 0.12.0, `systems/data`) have the op, the columns are theirs, so
that a file of one program loads in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Value: TypeAlias = int | float | str | bool
Array: TypeAlias = Any  # Any: a numpy array, which this package does not load


@dataclass(frozen=True, slots=True, kw_only=True)
class SameAs:
    """The value of another parameter."""

    name: str


class Columns(Protocol):
    """The columns of some rows, by name; columns of a file, or parameters and dims on the way into one."""

    def __contains__(self, name: str) -> bool: ...

    def numbers(self, name: str) -> Array:
        """A column of numbers."""

    def each(self, name: str, value: Callable[[Any], Value]) -> Array:
        """`value` of what each row has in a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """A parameter or dim that follows from several columns of a file.

    `read` computes it from the file's `columns`, those of them that it has; `write` gives, from parameters and dims,
    the columns that `read` would turn into them again. Without it rows are only read in this format.
    """

    columns: tuple[str, ...]
    read: Callable[[Columns], Array]
    write: Callable[[Columns], Mapping[str, Array]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFormat:
    """One file name and what its columns mean.

    `stem` is the file name without its ending. `columns` gives the column of a parameter or dim that has another name
    there. `spellings` translates texts of a column, by parameter; of two texts with one meaning the first is written.
    `derived` computes those that are no column. `absent` says what parameters are in files that lack
    their column; the others have their default there, and a required one has to have a column. `rows` keeps rows
    whose column has one of these texts (`*` stands for any), where one file holds several kinds. `backend` is whose
    tables they are where it is not the serving engine's.
    """

    stem: str
    columns: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    derived: Mapping[str, Derived] = field(default_factory=dict)
    absent: Mapping[str, Value | SameAs] = field(default_factory=dict)
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    backend: str = ""

    def column(self, name: str) -> str:
        """The column of a parameter or dim."""
        return self.columns.get(name, name)
