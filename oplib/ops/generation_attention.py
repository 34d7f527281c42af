"""generation_attention: attention of the newest token over the cache."""

from __future__ import annotations

from typing import ClassVar

from oplib.plain_attention import PlainAttention


class GenerationAttention(PlainAttention):
    """Attention of one new token (or a few drafted ones) per sequence over its cache.

    Computes:
        softmax(scale · q kᵀ + bias + mask) v for each head, over the cached and the new keys, with an optional sliding
        window, chunks, soft cap, sinks and bias; the new keys and values join the cache. The bias is a slope per head
        times the distance of query and key (alibi), a learned value per head and distance (relative), or a value per
        sequence, head and pair (content).
    Shapes:
        As context_attention, with s = 1, or a few tokens when several are verified at once. Keeps b and p apart: the
        cache is read per sequence, so b·p and not b alone decides the time, and s seldom varies.
    FLOPs:
        2·b·H·(D + V)·pairs, derived as for context_attention; for s = 1 the pairs are p + 1, or min(p + 1, window),
        whether masked pairs are computed or skipped. Softmax, soft cap, scale and mask are ignored.
    Bytes:
        q read, output written, new k and v read at the activation width and written to the cache at its own, visible
        cached k and v read once per key/value head, sinks H. Bias as
        for context_attention. This bounds the op: each cached byte meets H/G queries.
        Partial results of kernels that split the cache, and cache pages, are ignored.
    Weights:
        None; with sinks one value per head. A learned bias that is one parameter is owned here, a table that is looked
        up is an op of its own.
    Valid range:
        s at least 1, p at least 0, num_heads a multiple of num_kv_heads, not both window and chunk.
    Error:
        Of estimates between rows, by table: docs/interpolation.md. Small rows below the bound found bytes in the cache.
    Source:
        Shazeer, "Fast Transformer Decoding", arXiv:1911.02150v1, section 2.4.1: https://arxiv.org/abs/1911.02150v1;
        Ainslie et al., GQA, arXiv:2305.13245v3: https://arxiv.org/abs/2305.13245v3;
        Press et al., ALiBi, arXiv:2108.12409v2, section 3: https://arxiv.org/abs/2108.12409v2
    """

    name: ClassVar[str] = "generation_attention"

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1,),
            "p": (127, 511, 1023, 2047, 4095, 8191, 16383, 32767, 65535, 131071),
        }

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"b": (24, 48), "p": (1500, 3000)}
