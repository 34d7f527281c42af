"""Op lists of ranks."""

from __future__ import annotations

from models.layout import Layout
from models.source import Source
from oplib.errors import InvalidInputError
from oplib.oplist import OpList


def stages_of(source: Source, layout: Layout) -> list[OpList]:
    if layout != Layout():
        raise InvalidInputError("Only one GPU.", "")
    return [source.op_list]
