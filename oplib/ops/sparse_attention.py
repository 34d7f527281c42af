"""sparse_attention: attention over the keys that a selection left."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, minimum
from oplib.attention_work import (
    HeadSizes,
    capped_pairs,
    compressed_pairs,
    latent_heads,
    partial_blocks,
    plain_heads,
)
from oplib.errors import InvalidInputError
from oplib.kind import Dims, OpKind, Role
from oplib.params import (
    ACTIVATION_DTYPE,
    CAUSAL,
    KV_DTYPE,
    MASKING,
    Param,
    Params,
    flag,
    integer,
    text,
)

_INDEX_BYTES = 4  # an int32 key position
_PLAIN = ("num_kv_heads", "head_dim", "v_head_dim")
_LATENT = ("qk_nope_head_dim", "v_head_dim")


class SparseAttention(OpKind):
    """Attention of each query over at most topk selected keys.

    Computes:
        softmax(scale · q kᵀ) v for each head, over the keys whose positions are given per query; all heads of a
        query share the selection. With block, keys are selected in blocks of so many tokens, of which a query
        sees those that have all come, and with tail also the tokens behind its last whole block. Which op
        selects is named by index_source; it is not part of this op.
    Shapes:
        With kv_lora_rank 0 plain heads as in context_attention, else latent ones as in context_mla, expanded or
        absorbed. Indices [b, s, topk], with tail block - 1 more. Keeps b, s and p apart: a sequence shorter than
        topk selects nothing away.
    FLOPs:
        2·b·H·pairs·(key size + value size), with the sizes of context_attention or context_mla. computed: the
        selection is a mask over the full rectangle, pairs = s·(s + p), as eager code runs it. skipped: only selected
        keys, pairs = Σ over i = 1..s of min(p + i, topk) when causal, else s·min(s + p, topk); with topk 0 all keys
        are selected. In blocks, causal: Σ over i = 1..s of block·min(⌊(p + i)/block⌋, topk/block), and with tail
        (p + i) mod block more. Softmax is ignored.
    Bytes:
        q read, output written, new keys read and written to the cache, indices read at 4 bytes per selected
        key. Cached keys read once: computed: all p. skipped: at most min(p, pairs - s), since queries cannot
        select more distinct keys than they have pairs, their own tokens among them unless keys come in blocks,
        then min(p, pairs); many queries together may select fewer distinct ones than this. Rereads of a key by
        several queries of a prompt, which gathering kernels do, are ignored.
    Weights:
        None.
    Valid range:
        s at least 1, p at least 0, topk a multiple of block; blocks are causal.
    Error:
        No measured tables yet; bound only.
    Source:
        DeepSeek-V3.2, arXiv:2512.02556v1, section 2.1: https://arxiv.org/abs/2512.02556v1; Yuan et al., Native Sparse
        Attention, arXiv:2502.11089v2: https://arxiv.org/abs/2502.11089v2
    """

    name: ClassVar[str] = "sparse_attention"
    role: ClassVar[Role] = "attention"
    dims: ClassVar[tuple[str, ...]] = ("b", "s", "p")
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="query heads"),
        Param(name="num_kv_heads", type=int, default=0, minimum=0, doc="plain key/value heads"),
        Param(name="head_dim", type=int, default=0, minimum=0, doc="plain key size"),
        Param(
            name="kv_lora_rank", type=int, default=0, minimum=0, doc="latent size; 0: plain heads"
        ),
        Param(name="qk_nope_head_dim", type=int, default=0, minimum=0, doc="as in context_mla"),
        Param(name="qk_rope_head_dim", type=int, default=0, minimum=0, doc="as in context_mla"),
        Param(name="v_head_dim", type=int, default=0, minimum=0, doc="size of a value"),
        Param(name="absorbed", type=bool, default=False, doc="as in context_mla"),
        Param(
            name="topk",
            type=int,
            minimum=0,
            doc="keys a query sees at most, without the tail; 0: all",
        ),
        Param(
            name="block",
            type=int,
            default=0,
            minimum=0,
            doc="tokens that are selected together; 0: each on its own",
        ),
        Param(
            name="tail", type=bool, default=False, doc="tokens behind the last whole block are seen"
        ),
        Param(
            name="index_source",
            type=str,
            default="indexer",
            doc="what selects the keys: a scoring op, block scores, or the selection of another layer",
            allowed=("indexer", "blocks", "shared"),
        ),
        CAUSAL,
        ACTIVATION_DTYPE,
        KV_DTYPE,
        MASKING,
    )

    def check(self, params: Params) -> None:
        needed = _LATENT if integer(params, "kv_lora_rank") else _PLAIN
        if missing := [name for name in needed if not params[name]]:
            raise InvalidInputError(
                f"sparse_attention with kv_lora_rank {params['kv_lora_rank']} has "
                f"{', '.join(missing)} 0.",
                "Latent heads need a kv_lora_rank, plain heads their key/value heads and sizes.",
            )
        block = integer(params, "block")
        if block and (integer(params, "topk") % block or not flag(params, "causal")):
            raise InvalidInputError(
                f"sparse_attention selects {params['topk']} keys in blocks of {block}, causal "
                f"{params['causal']}.",
                "A selection is of whole blocks, and blocks are causal.",
            )

    def sizes(self, params: Params) -> HeadSizes:
        heads, v_head_dim = integer(params, "num_heads"), integer(params, "v_head_dim")
        if rank := integer(params, "kv_lora_rank"):
            return latent_heads(
                heads=heads,
                rank=rank,
                nope=integer(params, "qk_nope_head_dim"),
                rope=integer(params, "qk_rope_head_dim"),
                v_head_dim=v_head_dim,
                absorbed=flag(params, "absorbed"),
            )
        return plain_heads(
            heads=heads,
            kv_heads=integer(params, "num_kv_heads"),
            head_dim=integer(params, "head_dim"),
            v_head_dim=v_head_dim,
        )

    def flops(self, params: Params, dims: Dims) -> Amount:
        s, p = dims["s"], dims["p"]
        computed = text(params, "masking") == "computed"
        pairs = s * (s + p) if computed else selected_pairs(s, p, params)
        return self.sizes(params).flops(dims["b"], pairs)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        b, s, p = dims["b"], dims["s"], dims["p"]
        selected = selected_pairs(s, p, params)
        own = (
            0 if integer(params, "block") else s
        )  # a query's own token may lie in a block not chosen
        cached = p if text(params, "masking") == "computed" else minimum(p, selected - own)
        indices = b * selected * _INDEX_BYTES
        return self.sizes(params).bytes(b, s, cached, params) + indices

    def compute_dtype(self, params: Params) -> str:
        return text(params, "dtype")

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 4, 16, 64, 128),
            "s": (1, 512, 2048, 8192),
            "p": (0, 2047, 8191, 32767, 131071),
        }


def selected_pairs(s: Amount, p: Amount, params: Params) -> Amount:
    """(query, key) pairs per sequence that the selection leaves."""
    topk, block = integer(params, "topk"), integer(params, "block")
    if block:
        whole = block * compressed_pairs(s, p, block, topk // block)
        return whole + (partial_blocks(s, p, block) if flag(params, "tail") else 0)
    if flag(params, "causal"):
        return capped_pairs(s, p, topk)
    return s * (minimum(s + p, topk) if topk else s + p)
