"""bmm: a batch of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from oplib.arithmetic import Amount, bytes_of_bits
from oplib.dtypes import quant_mode
from oplib.kind import Dims, OpKind, Role
from oplib.params import QUANT_MODE, Param, Params, flag, text
from oplib.table_format import Array, Columns, Derived, TableFormat

# Columns of each product and length of each sum in the published rows, which are DeepSeek-V3's: before attention
# queries go from 128 features of a head into the latent of 512, after it the result comes back.
_ABSORBED = {"mla_gen_pre": (512, 128), "mla_gen_post": (128, 512)}


class Bmm(OpKind):
    """A batch of independent matrix products of one shape.

    Computes:
        y[i, m, n] = a[i, m, k] · w[i, k, n] for each i of batch.
    Shapes:
        batch products of an m x k by a k x n matrix. MLA absorption has batch = heads and m = b*s. Where n or k
        depends on the lengths (scores, values), it is given as a dim and not as a parameter.
    FLOPs:
        Each of the batch·m·n outputs is k multiply-adds: 2·batch·m·n·k. Dequantisation is ignored.
    Bytes:
        batch·m·k read at the activation width, batch·k·n read at the weight width when the second operand is a
        parameter (`shared_b`) and at the activation width when it is an activation, batch·m·n written at the output
        width. Scales of the second operand are ignored (below 7 % of it in every mode but nvfp4, which has 12.5 %).
    Weights:
        batch·n·k with `shared_b`, else none. The op list gives the exact bytes, scales included.
    Valid range:
        All sizes at least 1.
    Error:
        Of estimates between rows, by table: docs/interpolation.md. Small rows below the bound found bytes in the cache.
    Source:
        PyTorch 2.13 documentation, torch.bmm: https://docs.pytorch.org/docs/2.13/generated/torch.bmm.html
    """

    name: ClassVar[str] = "bmm"
    role: ClassVar[Role] = "compute"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="n", type=int, doc="columns of each product"),
        Param(name="k", type=int, doc="length of each sum"),
        QUANT_MODE,
        Param(
            name="shared_b",
            type=bool,
            default=False,
            doc="the second operand is a parameter and not an activation",
        ),
    )
    dims: ClassVar[tuple[str, ...]] = ("batch", "m")
    dim_params: ClassVar[tuple[str, ...]] = ("n", "k")
    coordinates: ClassVar[tuple[str, ...]] = ("batch", "m", "n", "k")

    @property
    def table_formats(self) -> tuple[TableFormat, ...]:
        """Our own, and the published products of an absorbed MLA, one per head, whose `op_name` tells the sizes."""
        published = TableFormat(
            stem="mla_bmm_perf",
            columns={"batch": "num_heads", "m": "num_tokens", "dtype": "bmm_dtype"},
            derived={
                "n": Derived(columns=("op_name",), read=_size(0)),
                "k": Derived(columns=("op_name",), read=_size(1)),
            },
            absent={"shared_b": True},
            rows={"op_name": tuple(_ABSORBED)},
        )
        return self.table_format, published

    def flops(self, params: Params, dims: Dims) -> Amount:
        n, k = self.size("n", params, dims), self.size("k", params, dims)
        return 2 * dims["batch"] * dims["m"] * n * k

    def bytes(self, params: Params, dims: Dims) -> Amount:
        n, k = self.size("n", params, dims), self.size("k", params, dims)
        mode = quant_mode(text(params, "dtype"))
        second = mode.weight_bits if flag(params, "shared_b") else mode.activation_bits
        m = dims["m"]
        bits = m * k * mode.activation_bits + k * n * second + m * n * mode.output_bits
        return bytes_of_bits(dims["batch"] * bits)

    def compute_dtype(self, params: Params) -> str:
        return quant_mode(text(params, "dtype")).compute_dtype

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {"batch": (8, 16, 32, 64, 128), "m": tuple(2**i for i in range(14))}


def _size(which: int) -> Callable[[Columns], Array]:
    return lambda raw: raw.each("op_name", lambda text: _ABSORBED[text][which])
