"""embedding: rows looked up in a table."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, bytes_of_bits
from oplib.dtypes import quant_mode
from oplib.kind import Dims, OpKind, Role
from oplib.params import QUANT_MODE, Param, Params, integer, text

_ID_BITS = 64  # torch indexes with int64
_FEW_IDS = 16  # up to which torch's lookup on a GPU has a kernel of its own, which takes one id after the other


class Embedding(OpKind):
    """A lookup of rows in a table.

    Computes:
        y[i] = table[id[i]] for each of m ids.
    Shapes:
        m ids, a table of num_embeddings rows of embedding_dim. Varies with x = b*s.
    FLOPs:
        None: 0. Dequantisation is ignored.
    Bytes:
        Per id its 8 bytes, one row read at the weight width and one row written at the output width. Each id counts
        its own row: repeated ids, whose rows may sit in the cache, are not discounted. Row scales are ignored.
    Weights:
        num_embeddings·embedding_dim. With `tied` another op holds the table.
    Valid range:
        m at least 1.
    Error:
        Of estimates between our rows, on one kind of GPU: docs/measuring.md. Rows below the bound found their tensors
        in the cache, where the op before leaves them.
    Source:
        PyTorch 2.13 documentation, torch.nn.Embedding:
        https://docs.pytorch.org/docs/2.13/generated/torch.nn.Embedding.html
    """

    name: ClassVar[str] = "embedding"
    role: ClassVar[Role] = "memory"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_embeddings", type=int, doc="rows of the table"),
        Param(name="embedding_dim", type=int, doc="length of a row"),
        QUANT_MODE,
        Param(name="tied", type=bool, default=False, doc="another op holds the table"),
    )
    dims: ClassVar[tuple[str, ...]] = ("m",)
    coordinates: ClassVar[tuple[str, ...]] = ("m", "embedding_dim")
    immaterial: ClassVar[tuple[str, ...]] = ("num_embeddings", "tied")

    def flops(self, params: Params, dims: Dims) -> Amount:  # noqa: ARG002 - a lookup has no work
        return 0 * dims["m"]

    def bytes(self, params: Params, dims: Dims) -> Amount:
        mode = quant_mode(text(params, "dtype"))
        row_bits = integer(params, "embedding_dim") * (mode.weight_bits + mode.output_bits)
        return bytes_of_bits(dims["m"] * (row_bits + _ID_BITS))

    def regime(self, params: Params, dims: Dims) -> Amount:  # noqa: ARG002
        """0 for as few ids as have a kernel of their own, 1 for more."""
        return 1 * (dims["m"] > _FEW_IDS)

    def compute_dtype(self, params: Params) -> str:
        return quant_mode(text(params, "dtype")).compute_dtype

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {"m": tuple(2**i for i in range(15))}
