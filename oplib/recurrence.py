"""The shared body of the op kinds that carry a state from token to token."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, ceil_div, minimum
from oplib.dtypes import storage_bytes
from oplib.kind import Dims, OpKind, Role
from oplib.params import Params, integer, text


class Recurrence(OpKind):
    """A recurrence over time that runs on the vector units; a subclass adds docs, parameters, work, bytes and grid.

    It has the parameters `state_dtype` and `phase`, and keeps b and s apart: a state moves once per sequence.
    """

    role: ClassVar[Role] = "scan"
    counted: ClassVar[bool] = False
    dims: ClassVar[tuple[str, ...]] = ("b", "s")

    def state_bytes(self, params: Params, elements: int) -> int:
        """Bytes that the state of one sequence moves: written, and in generation read."""
        moves = 2 if text(params, "phase") == "generation" else 1
        return moves * elements * storage_bytes(text(params, "state_dtype"))

    def compute_dtype(self, params: Params) -> str:  # noqa: ARG002 - runs on the vector units
        return "float32"


class ChunkedRecurrence(Recurrence):
    """A recurrence that a context runs in chunks, as matrix products; `chunk_size` is one of its parameters."""

    def chunks(self, params: Params, s: Amount) -> tuple[Amount, Amount]:
        """Tokens of a chunk, and how many chunks cover s tokens."""
        size = integer(params, "chunk_size")
        return minimum(size, s), ceil_div(s, size)

    def worked(self, params: Params, dims: Dims) -> Dims:
        """A prompt of more than a chunk fills its last one."""
        if text(params, "phase") != "context":
            return dims
        chunk, chunks = self.chunks(params, dims["s"])
        return {**dims, "s": chunk * chunks}

    def compute_dtype(self, params: Params) -> str:
        """The chunked form runs as matrix products, the recurrent one on the vector units."""
        return text(params, "dtype") if text(params, "phase") == "context" else "float32"
