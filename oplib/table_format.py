"""TableFormat: how a file of measurements spells an op kind.

Where the tables of AIConfigurator (aiconfigurator-core 0.12.0, `systems/data`) have the op, the columns are theirs, so
that a file of one program loads in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Value: TypeAlias = int | float | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SameAs:
    """The value of another parameter."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFormat:
    """One file name and what its columns mean.

    `stem` is the file name without its ending. `columns` gives the column of a parameter or dim that has another name
    there. `spellings` translates texts of a column, by parameter. `absent` says what parameters are in files that lack
    their column; the others have their default there, and a required one has to have a column. `rows` keeps rows
    whose column has one of these texts, where one file holds several kinds.
    """

    stem: str
    columns: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    absent: Mapping[str, Value | SameAs] = field(default_factory=dict)
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str) -> str:
        """The column of a parameter or dim."""
        return self.columns.get(name, name)
