"""gemm: a linear layer."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, bytes_of_bits
from oplib.dtypes import quant_mode, weight_bytes
from oplib.kind import Dims, OpKind, Role
from oplib.params import GROUP_SIZE, QUANT_MODE, Param, Params, flag, integer, text
from oplib.table_format import TableFormat


class Gemm(OpKind):
    """A linear layer: a dense matrix product with a weight.

    Computes:
        y[m, n] = x[m, k] · w[n, k]ᵀ (+ bias[n]).
    Shapes:
        m tokens, k input features, n output features. m is b*s in a decoder, b where only the last token counts,
        so the op varies with x = b*s: work and bytes do not know which tokens share a sequence.
    FLOPs:
        Each of the m·n outputs is k multiply-adds: 2·m·n·k. The bias addition (m·n) and the dequantisation of
        weight-only modes are ignored.
    Bytes:
        Input m·k at the activation width of the mode, weight once with its scales, output m·n at the output width,
        bias n. Activation scales, and second reads of x or w by tiles that do not fit the cache, are ignored.
    Weights:
        n·k in the storage of the mode (`oplib.dtypes.weight_bytes`), plus the bias. With `tied` another op holds
        the weight: its bytes are read here but not held here.
    Valid range:
        m, n, k at least 1. At small m the launch time exceeds this bound.
    Error:
        Of estimates between rows, by table: docs/interpolation.md. Small rows below the bound found bytes in the cache.
    Source:
        NVIDIA, "Matrix Multiplication Background User's Guide" (February 2023), section 2:
        https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/index.html
    """

    name: ClassVar[str] = "gemm"
    role: ClassVar[Role] = "compute"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="n", type=int, doc="output features"),
        Param(name="k", type=int, doc="input features"),
        QUANT_MODE,
        GROUP_SIZE,
        Param(name="bias", type=bool, default=False, doc="a bias is added"),
        Param(name="tied", type=bool, default=False, doc="another op holds the weight"),
    )
    dims: ClassVar[tuple[str, ...]] = ("m",)
    coordinates: ClassVar[tuple[str, ...]] = ("m", "n", "k")
    shows_floor: ClassVar[bool] = True
    immaterial: ClassVar[tuple[str, ...]] = ("bias", "tied", "group_size")

    @property
    def table_format(self) -> TableFormat:
        return TableFormat(
            stem="gemm_perf", columns={"dtype": "gemm_dtype"}, spellings={"dtype": {"sq": "int8"}}
        )

    def flops(self, params: Params, dims: Dims) -> Amount:
        return 2 * dims["m"] * integer(params, "n") * integer(params, "k")

    def bytes(self, params: Params, dims: Dims) -> Amount:
        n, k, mode = integer(params, "n"), integer(params, "k"), quant_mode(text(params, "dtype"))
        row_bits = k * mode.activation_bits + n * mode.output_bits
        bias = n * mode.output_bits // 8 if flag(params, "bias") else 0
        weight = weight_bytes(mode.name, n, k, integer(params, "group_size") or None)
        return bytes_of_bits(dims["m"] * row_bits) + weight + bias

    def compute_dtype(self, params: Params) -> str:
        return quant_mode(text(params, "dtype")).compute_dtype

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {"m": tuple(2**i for i in range(15))}

    def between(self) -> dict[str, tuple[int, ...]]:
        batches = (24, 48, 96, 192, 384, 768, 1536, 3072, 6144, 12288)
        return {"m": (*batches, 20, 200, 450, 1000, 2000, 4000, 8000)}
