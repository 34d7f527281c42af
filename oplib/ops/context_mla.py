"""context_mla: latent attention over the new tokens of a prompt."""

from __future__ import annotations

from typing import ClassVar

from oplib.latent_attention import LatentAttention


class ContextMla(LatentAttention):
    """Multi-head latent attention of many new tokens.

    Computes:
        softmax(scale · q kᵀ + mask) v for each head. Expanded (usual here): keys and values of every head come in as
        activations, rebuilt from the latent by a gemm that is an op of its own. Absorbed: queries come in projected
        into the latent space, all heads share one latent key, the output leaves in the latent space; the projections
        are bmm ops of their own. The new latents join the cache.
    Shapes:
        H = num_heads, L = kv_lora_rank, N = qk_nope_head_dim, R = qk_rope_head_dim, V = v_head_dim. Expanded:
        q[b, s, H, N+R], k[b, s+p, H, N+R], v[b, s+p, H, V], output[b, s, H, V]. Absorbed: q[b, s, H, L+R],
        cache[b, p, L+R], output[b, s, H, L]. Keeps b, s and p apart: the work is quadratic in s within a sequence.
    FLOPs:
        Expanded: 2·b·H·pairs·((N + R) + V). Absorbed: 2·b·H·pairs·((L + R) + L). computed: pairs = s·(s + p);
        skipped and causal: s·p + s(s+1)/2.
        A window of w leaves min(p, w - 1) cached tokens and w keys. Softmax, scale and mask are ignored.
    Bytes:
        q read, output written, new latents (L + R per token) written to the cache. Expanded: keys and values of all
        s + p tokens and H heads read at the activation width; the gemm that rebuilds them reads the cache. Absorbed:
        new latents read at the activation width, p cached latents read once for all heads.
        Rereads by later query tiles are ignored, and so are cache pages.
    Weights:
        None.
    Valid range:
        s at least 1, p at least 0.
    Error:
        Of estimates between rows, by table: docs/interpolation.md. Small rows below the bound found bytes in the cache.
    Source:
        DeepSeek-V2, arXiv:2405.04434v5, section 2.1 and appendix C: https://arxiv.org/abs/2405.04434v5
    """

    name: ClassVar[str] = "context_mla"

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8),
            "s": (128, 256, 512, 1024, 2048, 4096, 8192, 16384),
            "p": (0, 1024, 4096, 16384),
        }

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"s": (1000, 3000)}
