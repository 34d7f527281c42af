"""all_reduce: a sum over GPUs that every one of them gets."""

from __future__ import annotations

from typing import ClassVar

from oplib.collective import Collective, message_bytes, nccl_format
from oplib.table_format import TableFormat


class AllReduce(Collective):
    """The element-wise sum of one vector per GPU, given to all of them.

    Computes:
        y = Σ over the GPUs g of x[g]; every GPU has y afterwards. Follows a row-parallel product.
    Shapes:
        bytes is the size of x[g], which is that of y: message elements times their width.
    FLOPs:
        None: the (n - 1)/n additions per element that a GPU makes are ignored; they hide behind the links.
    Bytes:
        x read and y written once each, 2·bytes. Sent over the links by each GPU: 2·(n - 1)/n·bytes, a reduce-scatter
        and an all-gather, which is the least without help. Where the switch adds and copies (NVLink SHARP) a GPU
        sends all parts but its own once and its own result once, so bytes in all. Staging buffers are ignored.
        Over m servers of g GPUs: within each a reduce-scatter and an all-gather, as above with g in place of n, and
        between them an all-reduce of a g-th of the message per GPU: 2·(m - 1)/m·bytes/g over the network,
        whose switches do not add.
    Weights:
        None.
    Valid range:
        num_gpus at least 1; a group of one moves nothing. A group is numbered through: its first GPUs fill one server.
    Error:
        No interpolation figures here. On 8 H200 the engines' kernels take 4.00 ms for 1 GiB, less than the 4.18 ms of
        a ring at 450 GB/s: the switch's reduction is in use, hence the second formula (aiconfigurator-core 0.12.0,
        TensorRT-LLM 1.3.0rc20 tables).
    Source:
        NVIDIA, nccl-tests, doc/PERFORMANCE.md (2023):
        https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md; NVIDIA H100 Tensor Core GPU Architecture
        v1.04, NVLink Switch: https://resources.nvidia.com/en-us-hopper-architecture
    """

    name: ClassVar[str] = "all_reduce"

    @property
    def table_format(self) -> TableFormat:
        """What an engine itself uses: its own kernel for small messages, and NCCL or its kernel for large ones."""
        return TableFormat(
            stem="custom_allreduce_perf",
            columns={"dtype": "allreduce_dtype"},
            derived={"bytes": message_bytes("allreduce_dtype")},
        )

    @property
    def table_formats(self) -> tuple[TableFormat, ...]:
        return self.table_format, nccl_format("all_reduce")

    def memory_moves(self, num_gpus: int) -> float:  # noqa: ARG002 - of no account
        return 2.0

    def link_moves(self, num_gpus: int, switch_reduces: bool) -> float:
        return 1.0 if switch_reduces else 2.0 * (num_gpus - 1) / num_gpus

    def network_moves(self, num_gpus: int, servers: int) -> float:
        return 2.0 * (servers - 1) / num_gpus
