"""The shared body of the communication kinds: one message over the links between the GPUs of one group."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.kind import Dims, OpKind, Role
from oplib.params import Param, Params, integer
from oplib.table_format import Columns, Derived, TableFormat

# NCCL moves and adds both 16-bit floats alike; serving sends bfloat16, the published tables call it half.
_SPELLINGS = {"dtype": {"half": "bfloat16"}}


class Collective(OpKind):
    """Communication of one GPU with the others of its group; a subclass adds docs and how much is moved.

    The dim `bytes` is the size of the whole message as each file of a kind defines it. A group of one GPU moves
    nothing.
    """

    role: ClassVar[Role] = "communication"
    counted: ClassVar[bool] = False
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_gpus", type=int, doc="GPUs of the group"),
        Param(
            name="dtype",
            type=str,
            default="bfloat16",
            doc="dtype of the elements",
            allowed=("float32", "bfloat16", "float16", "fp8", "int8"),
        ),
    )
    dims: ClassVar[tuple[str, ...]] = ("bytes",)
    coordinates: ClassVar[tuple[str, ...]] = ("bytes",)
    immaterial: ClassVar[tuple[str, ...]] = ("dtype",)

    @abstractmethod
    def memory_moves(self, num_gpus: int) -> float:
        """Times the message that one of `num_gpus` > 1 reads from and writes to its memory."""

    @abstractmethod
    def link_moves(self, num_gpus: int, switch_reduces: bool) -> float:
        """Times the message that one of `num_gpus` > 1 sends over its links."""

    @abstractmethod
    def network_moves(self, num_gpus: int, servers: int) -> float:
        """Times the message that one of `num_gpus` in `servers` > 1 servers sends over the network between them."""

    def inside_moves(self, num_gpus: int, servers: int, switch_reduces: bool) -> float:
        """Times the message that it sends to the others of its server meanwhile."""
        return self.link_moves(num_gpus // servers, switch_reduces) if num_gpus > servers else 0.0

    def flops(self, params: Params, dims: Dims) -> Amount:  # noqa: ARG002 - additions are ignored
        return 0 * dims["bytes"]

    def bytes(self, params: Params, dims: Dims) -> Amount:
        num_gpus = integer(params, "num_gpus")
        return dims["bytes"] * (self.memory_moves(num_gpus) if num_gpus > 1 else 0)

    def link_bytes(self, params: Params, dims: Dims, *, switch_reduces: bool = False) -> Amount:
        num_gpus = integer(params, "num_gpus")
        return dims["bytes"] * (self.link_moves(num_gpus, switch_reduces) if num_gpus > 1 else 0)

    def spread_bytes(
        self, params: Params, dims: Dims, *, joins: int, switch_reduces: bool = False
    ) -> tuple[Amount, Amount]:
        num_gpus = integer(params, "num_gpus")
        servers = -(-num_gpus // joins)
        inside = self.inside_moves(num_gpus, servers, switch_reduces)
        return dims["bytes"] * inside, dims["bytes"] * self.network_moves(num_gpus, servers)

    def compute_dtype(self, params: Params) -> str:  # noqa: ARG002 - no product
        return "float32"

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {"bytes": tuple(2**i for i in range(8, 31))}

    @property
    def table_format(self) -> TableFormat:
        """NCCL's own tables; rows are told apart by `op_name`."""
        return nccl_format(self.name)


def nccl_format(op_name: str) -> TableFormat:
    """Rows of a collective in the tables of NCCL, whose backend and version are NCCL's whatever engine serves.

    `message_size` there counts elements, not bytes: on 8 H200 int8 and half rows of as many bytes take the same time,
    and as elements the largest all_gather moves 337 GB/s out of each GPU of 450 at most. The size is that of the whole
    buffer and not of a GPU's part, which would be 2,700 GB/s.
    """
    return TableFormat(
        stem="nccl_perf",
        columns={"dtype": "nccl_dtype"},
        spellings=_SPELLINGS,
        derived={"bytes": message_bytes("nccl_dtype")},
        rows={"op_name": (op_name,)},
        backend="nccl",
    )


def message_bytes(dtype_column: str) -> Derived:
    """The dim `bytes` of files whose `message_size` counts elements of the dtype in another column."""

    def read(raw: Columns) -> Amount:
        widths = raw.each(dtype_column, lambda text: storage_bytes(_storage(text)))
        return raw.numbers("message_size") * widths

    def write(values: Columns) -> dict[str, Amount]:
        return {"message_size": values.numbers("bytes") / values.each("dtype", storage_bytes)}

    return Derived(read=read, write=write, columns=(dtype_column, "message_size"))


def _storage(text: str) -> str:
    return "float16" if text == "half" else text
