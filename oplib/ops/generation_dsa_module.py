"""generation_dsa_module: a whole latent attention module with a selection of keys, over the newest token."""

from __future__ import annotations

from typing import ClassVar

from oplib.kind import Dims, Ways
from oplib.params import Params
from oplib.sparse_module import SparseModule


class GenerationDsaModule(SparseModule):
    """A sparse latent attention module of one new token (or a few drafted ones) per sequence.

    Computes:
        As context_dsa_module, absorbed: the attention is sparse_attention in the latent space, between the products
        of each head into it and out of it. It stands for those ops and is never listed beside them.
    Shapes:
        As context_dsa_module with s = 1, or a few tokens when several are verified at once.
    FLOPs:
        With x = b·s and the letters of context_dsa_module, 2 for each of these products: gemm
        x·hidden_size·(Q + L + R), x·Q·H·(N + R), x·H·V·hidden_size, bmm x·N·L and x·L·V per head, gemm
        x·hidden_size·D, x·Q·I·D, x·hidden_size·I; and sparse_indexer and sparse_attention absorbed. As long as
        s + p is at most K, queries and weights of the indexer and the scores are not counted. Norms, rotary, the
        Hadamard transform and the quantisation of activations are ignored.
    Bytes:
        Those of the parts: weights once, inputs and outputs of each part, all cached scoring keys, min(p, K) cached
        latents. Norms and rotary are ignored. The speed of light is the sum of the parts' own bounds, each the
        longer of its FLOPs and its bytes; the indexer scores in fp8, as its engines do whatever the mode.
    Weights:
        As context_dsa_module.
    Valid range:
        s at least 1, p at least 0.
    Error:
        Leave-one-out figures of each table: docs/interpolation.md.
    Source:
        DeepSeek-V3.2, arXiv:2512.02556v1, section 2.1: https://arxiv.org/abs/2512.02556v1
    """

    name: ClassVar[str] = "generation_dsa_module"
    phase: ClassVar[str] = "generation"
    cores: ClassVar[tuple[str, ...]] = ("sparse_attention",)
    op_names: ClassVar[tuple[str, ...]] = (
        "dsa_generation_module",
        "dsa_generation_module_skip_indexer",
    )

    def ways(self, params: Params, dims: Dims) -> Ways:
        return ((*self.around(params, dims), *self.in_latent_space(params, dims)),)

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1,),
            "p": (127, 511, 1023, 2047, 4095, 8191, 16383, 32767, 65535, 131071),
        }
