"""generation_mla: latent attention of the newest token over the cache."""

from __future__ import annotations

from typing import ClassVar

from oplib.latent_attention import LatentAttention


class GenerationMla(LatentAttention):
    """Multi-head latent attention of one new token (or a few drafted ones) per sequence.

    Computes:
        softmax(scale · q kᵀ + mask) v for each head. Absorbed (usual here): queries come in projected into the latent
        space, all heads share one latent key per token, the output leaves in the latent space; the projections
        before and after are bmm ops. Expanded: as context_mla. The new latents join the cache.
    Shapes:
        As context_mla with s = 1, or a few tokens when several are verified at once. Keeps b and p apart: the cache
        is read per sequence.
    FLOPs:
        Absorbed: 2·b·H·pairs·((L + R) + L). Expanded: 2·b·H·pairs·((N + R) + V). For s = 1 the pairs are p + 1,
        whether masked pairs are computed or skipped;
        a window of w leaves min(p, w - 1) + 1. Softmax, scale and mask are ignored.
    Bytes:
        q read, output written, new latents (L + R per token) read and written to the cache, p cached latents read
        once for all heads: each cached byte meets H queries, so at H = 128 work can bound the op. Partial results of
        kernels that split the cache, and cache pages, are ignored. Expanded: as context_mla.
    Weights:
        None.
    Valid range:
        s at least 1, p at least 0.
    Error:
        Of estimates between rows, by table: docs/interpolation.md. Small rows below the bound found bytes in the cache.
    Source:
        DeepSeek-V2, arXiv:2405.04434v5, section 2.1.2 and appendix C: https://arxiv.org/abs/2405.04434v5
    """

    name: ClassVar[str] = "generation_mla"

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1,),
            "p": (127, 511, 1023, 2047, 4095, 8191, 16383, 32767, 65535, 131071),
        }

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"b": (24, 48), "p": (1500, 3000)}
