"""all_to_all: every GPU sends every other a part of its own."""

from __future__ import annotations

from typing import ClassVar

from oplib.collective import Collective, nccl_format
from oplib.table_format import TableFormat


class AllToAll(Collective):
    """An exchange: each GPU sends a different part of its vector to every other.

    Computes:
        y[g] = part g of x[0], part g of x[1], ..., part g of x[n - 1] on GPU g. Dispatches tokens to experts and
        combines their results, where the parts are taken as even.
    Shapes:
        bytes is the size of x[g], all parts together with the one that stays; y[g] has the same.
    FLOPs:
        None; the exchange has no arithmetic, address work is ignored.
    Bytes:
        The parts that leave read and those that come written: 2·(n - 1)/n·bytes. Sent over the links by each GPU:
        (n - 1)/n·bytes. Copying the part that stays, and uneven parts, are ignored.
        Over m servers of g GPUs the parts for other servers, (n - g)/n·bytes, go over the network.
    Weights:
        None.
    Valid range:
        num_gpus at least 1; a group of one moves nothing. A group is numbered through: its first GPUs fill one server.
    Error:
        No interpolation figures here.
    Source:
        NVIDIA, nccl-tests, doc/PERFORMANCE.md (2023):
        https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
    """

    name: ClassVar[str] = "all_to_all"

    @property
    def table_format(self) -> TableFormat:
        return nccl_format("alltoall")

    def memory_moves(self, num_gpus: int) -> float:
        return 2.0 * (num_gpus - 1) / num_gpus

    def link_moves(self, num_gpus: int, switch_reduces: bool) -> float:  # noqa: ARG002 - nothing is summed
        return (num_gpus - 1) / num_gpus

    def network_moves(self, num_gpus: int, servers: int) -> float:
        return (num_gpus - num_gpus // servers) / num_gpus

    def inside_moves(self, num_gpus: int, servers: int, switch_reduces: bool) -> float:  # noqa: ARG002
        return (num_gpus // servers - 1) / num_gpus
