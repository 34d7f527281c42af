"""p2p: one GPU sends another a message."""

from __future__ import annotations

from typing import ClassVar

from oplib.collective import Collective, message_bytes
from oplib.table_format import TableFormat


class P2p(Collective):
    """A message from one GPU to one other, as between the stages of a pipeline.

    Computes:
        y on the receiver = x on the sender.
    Shapes:
        bytes is the size of x. num_gpus is 2 where the stages are on different GPUs, and 1 where nothing is sent.
    FLOPs:
        None; the copy has no arithmetic, address work is ignored.
    Bytes:
        x read by the sender, which the receiver writes at the same time: bytes per GPU. Sent over the link: bytes.
        Staging buffers are ignored.
    Weights:
        None.
    Valid range:
        num_gpus at least 1; a group of one moves nothing. Sender and receiver in one server.
    Error:
        No measured tables yet; bound only.
    Source:
        NVIDIA, nccl-tests, doc/PERFORMANCE.md (2023):
        https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
    """

    name: ClassVar[str] = "p2p"

    @property
    def table_format(self) -> TableFormat:
        """No published table; ours has the columns of the others."""
        return TableFormat(
            stem="p2p_perf",
            columns={"dtype": "nccl_dtype"},
            derived={"bytes": message_bytes("nccl_dtype")},
        )

    def memory_moves(self, num_gpus: int) -> float:  # noqa: ARG002 - of no account
        return 1.0

    def link_moves(self, num_gpus: int, switch_reduces: bool) -> float:  # noqa: ARG002 - of no account
        return 1.0

    def network_moves(self, num_gpus: int, servers: int) -> float:  # noqa: ARG002 - of no account
        return 1.0
