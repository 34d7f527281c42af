"""all_gather: parts of all GPUs, put together on every one."""

from __future__ import annotations

from typing import ClassVar

from oplib.collective import Collective


class AllGather(Collective):
    """The parts that GPUs hold of one vector, put together on each of them.

    Computes:
        y = x[0], x[1], ..., x[n - 1] in one; every GPU has y afterwards.
    Shapes:
        bytes is the size of y, the gathered whole; x[g] has bytes/n. So sizes count in NCCL's own tests.
    FLOPs:
        None; the copy has no arithmetic, address work is ignored.
    Bytes:
        x[g] read and the other parts written, bytes in all; a copy of the own part into y is ignored, as a gather in
        place has none. Sent over the links by each GPU: (n - 1)/n·bytes, its own part to each of the others or the
        same around a ring. Multicast by the switch is ignored: what arrives is as much, and bounds as well.
        Over m servers of g GPUs each part goes to every other server once, (m - 1)/n·bytes over the network per GPU,
        and on to the others of the server, as above with g in place of n.
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

    name: ClassVar[str] = "all_gather"

    def memory_moves(self, num_gpus: int) -> float:  # noqa: ARG002 - of no account
        return 1.0

    def link_moves(self, num_gpus: int, switch_reduces: bool) -> float:  # noqa: ARG002 - receives as much
        return (num_gpus - 1) / num_gpus

    def network_moves(self, num_gpus: int, servers: int) -> float:
        return (servers - 1) / num_gpus
