"""compressed_attention: attention over recent tokens and over compressed older ones."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, minimum
from oplib.attention_work import (
    HeadSizes,
    capped_pairs,
    check_head_groups,
    compressed_pairs,
    keys_after,
)
from oplib.dtypes import storage_bytes
from oplib.errors import InvalidInputError
from oplib.kind import Dims, OpKind, Role
from oplib.params import ACTIVATION_DTYPE, KV_DTYPE, MASKING, Param, Params, flag, integer, text

_INDEX_BYTES = 4  # an int32 key position


class CompressedAttention(OpKind):
    """Attention of each query over a window of tokens, and over keys that stand for ratio tokens each.

    Computes:
        softmax(scale · q kᵀ) v for each head, over two kinds of keys at once: those of the last window tokens, and
        compressed ones, each made of ratio tokens, which a query sees once these have all come. With topk a query
        sees the selected ones of them only. The compression and the selection are ops of their own.
    Shapes:
        q[b, s, H, D], o[b, s, H, V], raw keys and values[b, p + s, G, D] and [.., V], of which p stand in the cache,
        compressed ones[b, ⌊(p + s)/ratio⌋, G, D] and [.., V]; H = num_heads, G = num_kv_heads, D = head_dim,
        V = v_head_dim. Keeps b, s and p apart: work is quadratic in s.
    FLOPs:
        2·b·H·pairs·(D + V). computed: the rectangle of s queries by all keys at hand, pairs =
        s·(s + min(p, window - 1) + ⌊(p + s)/ratio⌋). skipped: causal, pairs = Σ over i = 1..s of
        min(p + i, window) + min(⌊(p + i)/ratio⌋, topk). Softmax and sinks are ignored.
    Bytes:
        q read, o written, new raw keys and values read and written to the cache, min(p, window - 1) cached ones
        read, compressed ones read: all ⌊(p + s)/ratio⌋, or, skipped with topk, at most one per pair, and then the
        indices at 4 bytes per selected key. Where keys are values (shared_kv) they count once. Rereads of a key by
        several queries are ignored; so is the mask.
    Weights:
        Sinks, num_heads, where there are any.
    Valid range:
        s at least 1, p at least 0, ratio at least 2, num_heads a multiple of num_kv_heads.
    Error:
        No measured tables yet; bound only.
    Source:
        transformers 5.23, DeepseekV4Attention:
        https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v4/modeling_deepseek_v4.py;
        compressed and selected keys: Yuan et al., Native Sparse Attention, arXiv:2502.11089v2, section 3:
        https://arxiv.org/abs/2502.11089v2
    """

    name: ClassVar[str] = "compressed_attention"
    role: ClassVar[Role] = "attention"
    dims: ClassVar[tuple[str, ...]] = ("b", "s", "p")
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="query heads"),
        Param(name="num_kv_heads", type=int, doc="key and value heads"),
        Param(name="head_dim", type=int, doc="size of a query and of a key"),
        Param(name="v_head_dim", type=int, doc="size of a value"),
        Param(name="shared_kv", type=bool, default=False, doc="keys are values, stored once"),
        Param(
            name="window", type=int, default=0, minimum=0, doc="tokens a query sees at most; 0: all"
        ),
        Param(name="ratio", type=int, minimum=2, doc="tokens that a compressed key stands for"),
        Param(
            name="topk",
            type=int,
            default=0,
            minimum=0,
            doc="compressed keys a query sees at most; 0: all",
        ),
        Param(
            name="sinks", type=bool, default=False, doc="one learned score per head joins softmax"
        ),
        ACTIVATION_DTYPE,
        KV_DTYPE,
        MASKING,
    )

    def check(self, params: Params) -> None:
        check_head_groups(self.name, params)
        if flag(params, "shared_kv") and params["head_dim"] != params["v_head_dim"]:
            raise InvalidInputError(
                f"compressed_attention shares keys of {params['head_dim']} with values of "
                f"{params['v_head_dim']}.",
                "Shared keys and values have one size.",
            )

    def sizes(self, params: Params) -> HeadSizes:
        heads, size = integer(params, "num_heads"), integer(params, "head_dim")
        value_size = integer(params, "v_head_dim")
        key_value = size if flag(params, "shared_kv") else size + value_size
        stored = integer(params, "num_kv_heads") * key_value
        return HeadSizes(
            query=heads * size, output=heads * value_size, key_value=stored, cache=stored
        )

    def flops(self, params: Params, dims: Dims) -> Amount:
        s, p = dims["s"], dims["p"]
        ratio, window = integer(params, "ratio"), integer(params, "window")
        if text(params, "masking") == "computed":
            pairs = s * (s + _cached(p, window) + keys_after(p + s, ratio))
        else:
            selected = compressed_pairs(s, p, ratio, integer(params, "topk"))
            pairs = capped_pairs(s, p, window) + selected
        return self.sizes(params).flops(dims["b"], pairs)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        b, s, p = dims["b"], dims["s"], dims["p"]
        ratio, topk = integer(params, "ratio"), integer(params, "topk")
        read = keys_after(p + s, ratio)
        indices: Amount = 0
        if topk:
            selected = compressed_pairs(s, p, ratio, topk)
            indices = b * selected * _INDEX_BYTES
            if text(params, "masking") == "skipped":
                read = minimum(read, selected)
        cached = _cached(p, integer(params, "window")) + read
        moved = self.sizes(params).bytes(b, s, cached, params) + indices
        if flag(params, "sinks"):
            moved += integer(params, "num_heads") * storage_bytes(text(params, "dtype"))
        return moved

    def compute_dtype(self, params: Params) -> str:
        return text(params, "dtype")

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 4, 16, 64, 128),
            "s": (1, 512, 2048, 8192),
            "p": (0, 2047, 8191, 32767, 131071),
        }


def _cached(p: Amount, window: int) -> Amount:
    """Cached tokens that are seen as they are."""
    return minimum(p, window - 1) if window else p
