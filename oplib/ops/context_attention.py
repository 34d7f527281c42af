"""context_attention: attention over the new tokens of a prompt."""

from __future__ import annotations

from typing import ClassVar

from oplib.plain_attention import PlainAttention


class ContextAttention(PlainAttention):
    """Attention of many new tokens: multi-head, grouped-query and multi-query alike.

    Computes:
        softmax(scale · q kᵀ + bias + mask) v for each head, over the cached and the new keys, with an optional sliding
        window, chunks, soft cap, sinks and bias; the new keys and values join the cache. The bias is a slope per head
        times the distance of query and key (alibi), a learned value per head and distance (relative), or a value per
        sequence, head and pair (content).
    Shapes:
        q[b, s, H, D], k[b, s, G, D], v[b, s, G, V], cache of p tokens, output[b, s, H, V]; H = num_heads,
        G = num_kv_heads, D = head_dim, V = v_head_dim. Keeps b, s and p apart: the work is quadratic in s within a
        sequence and linear in b.
    FLOPs:
        A pair (query, key) costs D multiply-adds for its score and V for its share of the output:
        2·b·H·(D + V)·pairs. computed: pairs = s·(s + c), the whole rectangle as eager code runs it, with c = p, or
        min(p, window - 1), or min(p, chunk - 1) cached tokens at hand (p again with whole_cache;
        at most cache_limit of them where that is set).
        skipped and causal: Σ over i = 1..s of
        min(p + i, window); with chunks, the keys of each query's own chunk up to itself. skipped and not causal:
        as computed. Softmax, soft cap, scale and mask are ignored, and so is work on masked parts of a kernel's tile.
    Bytes:
        q read, output written, new k and v read at the activation width and written to the cache at its own, visible
        cached k and v read once per key/value head, sinks H. Bias: H slopes, or H values per pair, once for all
        sequences (relative) or for each (content). Scores stay inside the kernel and count nothing; second
        reads of k and v by later query tiles are ignored; cache pages are ignored.
    Weights:
        None; with sinks one value per head. A learned bias that is one parameter is owned here, a table that is looked
        up is an op of its own.
    Valid range:
        s at least 1, p at least 0, num_heads a multiple of num_kv_heads, not both window and chunk.
    Error:
        Of estimates between rows, by table: docs/interpolation.md. Small rows below the bound found bytes in the cache.
    Source:
        Dao, FlashAttention-2, arXiv:2307.08691v1, section 4.1: https://arxiv.org/abs/2307.08691v1 (it halves the
        rectangle for a causal mask, here the diagonal is counted exactly); Ainslie et al., GQA, arXiv:2305.13245v3:
        https://arxiv.org/abs/2305.13245v3;
        Press et al., ALiBi, arXiv:2108.12409v2, section 3: https://arxiv.org/abs/2108.12409v2
    """

    name: ClassVar[str] = "context_attention"

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16),
            "s": (128, 256, 512, 1024, 2048, 4096, 8192, 16384),
            "p": (0, 1024, 4096, 16384),
        }

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"s": (1000, 3000)}
