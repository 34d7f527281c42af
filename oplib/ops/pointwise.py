"""pointwise: a fused cluster of elementwise work."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, minimum
from oplib.cluster_form import reduces, sketch
from oplib.dtypes import FLOAT_DTYPES
from oplib.errors import InvalidInputError
from oplib.kind import Dims, OpKind, Role
from oplib.params import Param, Params, text

_OTHER_DTYPES = ("float64", "int64", "int32", "int16", "int8", "uint8", "bool")


class Pointwise(OpKind):
    """A cluster of elementwise functions and row reductions that one kernel runs: norms, residuals, activations,
    rotary embeddings, gating, softmax, casts.

    Computes:
        The functions named, joined into one pass over the data.
    Shapes:
        read and written are the whole bytes of the cluster's inputs and outputs, as expressions in b, s, p:
        shapes differ from cluster to cluster, bytes decide the time.
    FLOPs:
        0 by convention: only products are counted, elementwise work is ignored because bytes bound a cluster.
    Bytes:
        read + written. Tensors that live and die inside the cluster are ignored.
    Weights:
        Norm scales and biases that the cluster reads; their bytes are part of read.
    Valid range:
        read and written at least 0.
    Error:
        Of estimates between our rows, on two kinds of GPU: docs/measuring.md. Rows below the bound found their tensors
        in the cache, where the op before leaves them.
    Source:
        Williams, Waterman, Patterson, "Roofline" (CACM 52(4), 2009): https://doi.org/10.1145/1498765.1498785;
        PyTorch 2.13: https://docs.pytorch.org/docs/2.13/generated/torch.compile.html
    """

    name: ClassVar[str] = "pointwise"
    role: ClassVar[Role] = "memory"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="functions", type=str, doc="names of the functions, sorted, joined by +"),
        Param(
            name="dtype",
            type=str,
            doc="dtype of most of the bytes",
            allowed=(*FLOAT_DTYPES, *_OTHER_DTYPES),
        ),
    )
    dims: ClassVar[tuple[str, ...]] = ("read", "written")
    implied: ClassVar[tuple[str, ...]] = ("width", "tensors")
    coordinates: ClassVar[tuple[str, ...]] = ("read", "written", *implied)
    immaterial: ClassVar[tuple[str, ...]] = ("functions", "dtype")

    def check(self, params: Params) -> None:
        names = text(params, "functions").split("+")
        if not all(names) or names != sorted(set(names)):
            raise InvalidInputError(
                f"Parameter functions of pointwise is {params['functions']!r}.",
                f"It takes sorted distinct names joined by +: {'+'.join(sorted(set(names) - {''}))!r}.",
            )

    def flops(self, params: Params, dims: Dims) -> Amount:  # noqa: ARG002 - 0 by convention
        return 0 * dims["read"]

    def bytes(self, params: Params, dims: Dims) -> Amount:  # noqa: ARG002 - dims are bytes
        return dims["read"] + dims["written"]

    def imply(self, params: Params, dims: Dims) -> dict[str, Amount]:
        """width: of the rows that a cluster reduces, 1 where it reduces none; tensors: those that it reads and writes.

        A wide row is held by many threads, and tensors in several places are fetched apart.
        """
        found = sketch(params, dims)
        width = minimum(found.width, found.elements) if reduces(params) else 0 * found.width + 1
        return {"width": width, "tensors": found.read + found.written}

    def compute_dtype(self, params: Params) -> str:
        """The rate of its floating dtype, float32 beside integers; no FLOPs are counted against it."""
        dtype = text(params, "dtype")
        return dtype if dtype in FLOAT_DTYPES else "float32"

    def grid(self) -> dict[str, tuple[int, ...]]:
        sizes = tuple(2**i for i in range(12, 31, 2))
        return {"read": sizes, "written": sizes}
