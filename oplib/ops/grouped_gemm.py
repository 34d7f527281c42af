"""grouped_gemm: each row times the matrix of its group."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, bytes_of_bits, power_of_ratio
from oplib.dtypes import quant_mode
from oplib.kind import Dims, OpKind, Role
from oplib.params import QUANT_MODE, Param, Params, integer, text


class GroupedGemm(OpKind):
    """A product of rows with one matrix per group: one projection of experts whose routing lies outside it.

    Computes:
        y[i, n] = x[i, k] · w[group(i), n, k]ᵀ.
    Shapes:
        m rows, sorted by group, and groups matrices of n x k. With top_k experts per token, m = b*s*top_k.
    FLOPs:
        Each of the m·n outputs is k multiply-adds, whatever the group: 2·m·n·k. Padding of a group's rows to a tile is
        ignored.
    Bytes:
        m·k read at the activation width, m·n written at the output width, and the matrices of the groups that any row
        is in: with rows drawn evenly and one by one, groups·(1 - (1 - 1/groups)^m). Scales are ignored.
    Weights:
        groups·n·k in the storage of the mode.
    Valid range:
        All sizes at least 1.
    Error:
        No measured tables yet; bound only.
    Source:
        PyTorch 2.13 documentation, torch.nn.functional.grouped_mm:
        https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.grouped_mm.html
    """

    name: ClassVar[str] = "grouped_gemm"
    role: ClassVar[Role] = "moe"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="n", type=int, doc="columns of the output"),
        Param(name="k", type=int, doc="length of each sum"),
        Param(name="groups", type=int, doc="matrices"),
        QUANT_MODE,
    )
    dims: ClassVar[tuple[str, ...]] = ("m",)

    def flops(self, params: Params, dims: Dims) -> Amount:
        return 2 * dims["m"] * integer(params, "n") * integer(params, "k")

    def bytes(self, params: Params, dims: Dims) -> Amount:
        n, k, groups = (integer(params, name) for name in ("n", "k", "groups"))
        mode, m = quant_mode(text(params, "dtype")), dims["m"]
        untouched = power_of_ratio(groups - 1, groups, m)
        rows = m * (k * mode.activation_bits + n * mode.output_bits)
        return bytes_of_bits(n * k * mode.weight_bits) * groups * (1 - untouched) + bytes_of_bits(
            rows
        )

    def compute_dtype(self, params: Params) -> str:
        return quant_mode(text(params, "dtype")).compute_dtype

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {"m": tuple(2**i for i in range(15))}
