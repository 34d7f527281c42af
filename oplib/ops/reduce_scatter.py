"""reduce_scatter: a sum over GPUs of which each gets a part."""

from __future__ import annotations

from typing import ClassVar

from oplib.collective import Collective


class ReduceScatter(Collective):
    """The element-wise sum of one vector per GPU, of which each GPU keeps a part.

    Computes:
        y = Σ over the GPUs g of x[g]; GPU g has the g-th of n parts of y afterwards.
    Shapes:
        bytes is the size of x[g], the whole input; a part of y has bytes/n. So sizes count in NCCL's own tests.
    FLOPs:
        None: the (n - 1)/n additions per element that a GPU makes are ignored; they hide behind the links.
    Bytes:
        x[g] read, its part of y written: bytes·(1 + 1/n). Sent over the links by each GPU: (n - 1)/n·bytes, with and
        without reduction in the switch, as all parts but its own have to leave. Staging buffers are ignored.
        Over m servers of g GPUs sums of a server leave it: (m - 1)/n·bytes over the network per GPU, and within the
        server as above with g in place of n.
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

    name: ClassVar[str] = "reduce_scatter"

    def memory_moves(self, num_gpus: int) -> float:
        return 1.0 + 1.0 / num_gpus

    def link_moves(self, num_gpus: int, switch_reduces: bool) -> float:  # noqa: ARG002 - parts leave either way
        return (num_gpus - 1) / num_gpus

    def network_moves(self, num_gpus: int, servers: int) -> float:
        return (servers - 1) / num_gpus
