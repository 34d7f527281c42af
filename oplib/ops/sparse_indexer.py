"""sparse_indexer: the scores that select keys for sparse attention."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.attention_work import compressed_pairs, keys_after
from oplib.dtypes import storage_bytes
from oplib.kind import Dims, OpKind, Role
from oplib.params import ACTIVATION_DTYPE, MASKING, Param, Params, integer, text

_SCORE_BYTES = 4  # float32
_INDEX_BYTES = 4  # int32


class SparseIndexer(OpKind):
    """The lightning indexer: small heads score every earlier key, the topk best are selected.

    Computes:
        score[t, u] = Σ over heads h of w[t, h] · relu(q[t, h] · k[u]), then the positions of the topk largest
        scores of each query t; w is 1 where weighted_sum is none. A key stands for ratio tokens, and a query
        sees it once they have all come. The projections that give q, k and w, and the compression of keys, are
        ops of their own.
    Shapes:
        q[b, s, H, D], w[b, s, H], one key k of D for all heads per ratio tokens, ⌊p/ratio⌋ of them cached, indices
        [b, s, topk]; H = num_heads, D = head_dim. Keeps b, s and p apart: work is quadratic in s.
    FLOPs:
        Per pair H·D multiply-adds for the products and, where it is written as a product, H for the weighted sum:
        2·b·pairs·H·(D + 1), else 2·b·pairs·H·D. computed: pairs = s·⌊(p + s)/ratio⌋; skipped: causal, Σ over
        i = 1..s of ⌊(p + i)/ratio⌋, which for ratio 1 is s·p + s(s+1)/2. relu, mask and the comparisons of the
        selection are ignored.
    Bytes:
        q read, and w (float32) where there is one, new keys read and written to the cache, cached keys read; scores
        in float32 written and read once, because the selection needs a whole row; indices int32 written, Σ over
        i = 1..s of min(⌊(p + i)/ratio⌋, topk), or all ⌊(p + i)/ratio⌋ with topk 0. Scales of fp8 keys are ignored
        (4 bytes per D).
    Weights:
        None.
    Valid range:
        s at least 1, p at least 0.
    Error:
        No measured tables yet; bound only.
    Source:
        DeepSeek-V3.2, arXiv:2512.02556v1, section 2.1, equation 1: https://arxiv.org/abs/2512.02556v1; over
        compressed keys: transformers 5.23, DeepseekV4Indexer:
        https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v4/modeling_deepseek_v4.py;
        without weights: transformers 5.23, Qwen4ExpTextQSAIndexer:
        https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen4_exp/modeling_qwen4_exp.py
    """

    name: ClassVar[str] = "sparse_indexer"
    role: ClassVar[Role] = "attention"
    dims: ClassVar[tuple[str, ...]] = ("b", "s", "p")
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="scoring heads"),
        Param(name="head_dim", type=int, doc="size of a scoring key"),
        Param(name="topk", type=int, minimum=0, doc="keys selected per query at most; 0: all"),
        Param(name="ratio", type=int, default=1, doc="tokens that a key stands for"),
        Param(
            name="weighted_sum",
            type=str,
            default="product",
            doc="how the sum over heads is written: as a matrix product, or elementwise, which counts no work; none: "
            "without weights",
            allowed=("product", "elementwise", "none"),
        ),
        ACTIVATION_DTYPE,
        MASKING,
    )

    def flops(self, params: Params, dims: Dims) -> Amount:
        width = integer(params, "head_dim") + (text(params, "weighted_sum") == "product")
        per_pair = integer(params, "num_heads") * width
        return 2 * dims["b"] * per_pair * _pairs(dims["s"], dims["p"], params)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        s, p = dims["s"], dims["p"]
        heads, size = integer(params, "num_heads"), integer(params, "head_dim")
        ratio, topk = integer(params, "ratio"), integer(params, "topk")
        width = storage_bytes(text(params, "dtype"))
        weighted = text(params, "weighted_sum") != "none"
        inputs = s * heads * (size * width + weighted * _SCORE_BYTES)
        keys = (2 * keys_after(p + s, ratio) - keys_after(p, ratio)) * size * width
        scores = 2 * _pairs(s, p, params) * _SCORE_BYTES
        indices = compressed_pairs(s, p, ratio, topk) * _INDEX_BYTES
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
    ratio = integer(params, "ratio")
    if text(params, "masking") == "computed":
        return s * keys_after(s + p, ratio)
    return compressed_pairs(s, p, ratio)
