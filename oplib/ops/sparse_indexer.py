"""sparse_indexer: the scores that select keys for sparse attention."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.attention_work import capped_pairs
from oplib.dtypes import storage_bytes
from oplib.kind import Dims, OpKind, Role
from oplib.params import ACTIVATION_DTYPE, MASKING, Param, Params, integer, text

_SCORE_BYTES = 4  # float32
_INDEX_BYTES = 4  # int32


class SparseIndexer(OpKind):
    """The lightning indexer: small heads score every earlier token, the topk best are selected.

    Computes:
        score[t, u] = Σ over heads h of w[t, h] · relu(q[t, h] · k[u]), then the positions of the topk largest scores
        of each query t. The projections that give q, k and w are gemms of their own.
    Shapes:
        q[b, s, H, D], w[b, s, H], one key k of D per token for all heads, cached for p tokens, indices
        [b, s, topk]; H = num_heads, D = head_dim. Keeps b, s and p apart: work is quadratic in s.
    FLOPs:
        Per pair H·D multiply-adds for the products and H for the weighted sum: 2·b·pairs·H·(D + 1). computed:
        pairs = s·(s + p); skipped: causal, s·p + s(s+1)/2. relu, mask and the comparisons of the selection are
        ignored.
    Bytes:
        q and w (float32) read, new keys read and written to the cache, p cached keys read; scores in float32 written
        and read once, because the selection needs a whole row; indices int32 written, Σ over i = 1..s of
        min(p + i, topk). Scales of fp8 keys are ignored (4 bytes per D).
    Weights:
        None.
    Valid range:
        s at least 1, p at least 0.
    Error:
        No measured tables yet; bound only.
    Source:
        DeepSeek-V3.2, arXiv:2512.02556v1, section 2.1, equation 1: https://arxiv.org/abs/2512.02556v1
    """

    name: ClassVar[str] = "sparse_indexer"
    role: ClassVar[Role] = "attention"
    dims: ClassVar[tuple[str, ...]] = ("b", "s", "p")
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="scoring heads"),
        Param(name="head_dim", type=int, doc="size of a scoring key"),
        Param(name="topk", type=int, doc="keys selected per query"),
        ACTIVATION_DTYPE,
        MASKING,
    )

    def flops(self, params: Params, dims: Dims) -> Amount:
        per_pair = integer(params, "num_heads") * (integer(params, "head_dim") + 1)
        return 2 * dims["b"] * per_pair * _pairs(dims["s"], dims["p"], params)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        s, p = dims["s"], dims["p"]
        heads, size = integer(params, "num_heads"), integer(params, "head_dim")
        width = storage_bytes(text(params, "dtype"))
        inputs = s * heads * (size * width + _SCORE_BYTES)
        keys = (2 * s + p) * size * width
        scores = 2 * _pairs(s, p, params) * _SCORE_BYTES
        indices = capped_pairs(s, p, integer(params, "topk")) * _INDEX_BYTES
        return dims["b"] * (inputs + keys + scores + indices)

    def compute_dtype(self, params: Params) -> str:
        return text(params, "dtype")

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 4, 16, 64, 128),
            "s": (1, 512, 2048, 8192),
            "p": (0, 2047, 8191, 32767, 131071),
        }


def _pairs(s: Amount, p: Amount, params: Params) -> Amount:
    return s * (s + p) if text(params, "masking") == "computed" else capped_pairs(s, p)
