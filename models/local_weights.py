"""Weight bytes of the op kinds whose parameters say how large their weight is."""

from __future__ import annotations

from oplib.dtypes import quant_mode, weight_bytes
from oplib.ops.moe import expert_bytes
from oplib.params import Params, flag, integer, text


def weight_formula(kind: str, params: Params) -> int:
    """Bytes of the weight that parameters of a gemm, an embedding or a moe describe, scales and biases included.

    Of two sets of parameters the difference is exact, whatever else the op holds (a second scale, a routing bias).
    """
    mode = text(params, "dtype")
    if kind == "embedding":
        return weight_bytes(mode, integer(params, "num_embeddings"), integer(params, "embedding_dim"))  # fmt: skip
    if kind == "gemm":
        n, k = integer(params, "n"), integer(params, "k")
        bias = n * quant_mode(mode).output_bits // 8 if flag(params, "bias") else 0
        return weight_bytes(mode, n, k, integer(params, "group_size") or None) + bias
    if kind == "moe":
        return integer(params, "num_experts") // integer(params, "ep_size") * expert_bytes(params)
    raise ValueError(f"{kind} has no weight formula")
