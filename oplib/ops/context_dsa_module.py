"""context_dsa_module: a whole latent attention module with a selection of keys, over the new tokens of a prompt."""

from __future__ import annotations

from typing import ClassVar

from oplib.kind import Dims, Ways
from oplib.latent_module import core_params, expanded, part
from oplib.params import Params
from oplib.sparse_module import SparseModule


class ContextDsaModule(SparseModule):
    """A sparse latent attention module of many new tokens, from the normed hidden states to the output projection.

    Computes:
        As context_mla_module, and each query attends to the index_topk keys that an indexer scores highest: scoring
        queries come out of the latent of queries, scoring keys and weights of heads out of the hidden states. Where
        another layer selects (index_source shared) there is no indexer. It stands for all these ops and is never
        listed beside them; what ranks sum up behind it is an op of its own.
    Shapes:
        The letters of context_mla_module, I = index_n_heads, D = index_head_dim, K = index_topk. num_heads is what one
        GPU has; every GPU scores with all I heads. Keeps b, s and p apart.
    FLOPs:
        With x = b·s, 2 for each of these products: gemm x·hidden_size·(Q + L + R), x·Q·H·(N + R), x·H·V·hidden_size;
        of the indexer gemm x·hidden_size·D, x·Q·I·D, x·hidden_size·I and sparse_indexer; and of two ways the one
        with fewer. Absorbed: bmm x·N·L and x·L·V per head and sparse_attention absorbed over K keys. Expanded: gemm
        b·(s + p)·L·H·(N + V) and context_mla expanded over all keys, which a mask may hide. As long as s + p is at
        most K every key is selected: queries and weights of the indexer and the scores are not counted. Norms, rotary,
        the Hadamard transform and the quantisation of activations are ignored.
    Bytes:
        Those of the parts, by the way with fewer: every part reads its input and writes its output. Norms and
        rotary are ignored. The speed of light is the sum of the parts' own bounds, each the longer of its FLOPs and
        its bytes, by the way with the least sum; the indexer scores in fp8, as its engines do whatever the mode.
    Weights:
        As context_mla_module, and (D + I)·hidden_size + Q·I·D of the indexer.
    Valid range:
        s at least 1, p at least 0. Queries of a prompt are taken to select as many distinct cached keys as they can
        (sparse_attention); where selections overlap, many short prompts over long caches take less: of SGLang's rows
        9 of 81,836 on an H200 (0.95 of the bound at least) and 340 of 125,802 on an H100 (0.68).
    Error:
        Leave-one-out figures of each table: docs/interpolation.md. Published rows below the bound: see Valid range.
    Source:
        DeepSeek-V3.2, arXiv:2512.02556v1, section 2.1: https://arxiv.org/abs/2512.02556v1; sizes of the published rows:
        configs of DeepSeek-V3.2 (61 layers) and GLM-5 (78 layers), 2026: https://huggingface.co/zai-org/GLM-5
    """

    name: ClassVar[str] = "context_dsa_module"
    phase: ClassVar[str] = "context"
    cores: ClassVar[tuple[str, ...]] = ("sparse_attention",)
    op_names: ClassVar[tuple[str, ...]] = (
        "dsa_context_module",
        "dsa_context_module_skip_indexer",
    )

    def ways(self, params: Params, dims: Dims) -> Ways:
        b, s, p = dims["b"], dims["s"], dims["p"]
        around = self.around(params, dims)
        whole = part("context_mla", core_params(params, absorbed=False), b=b, s=s, p=p)
        return (
            (*around, *self.in_latent_space(params, dims)),
            (*around, *expanded(params, whole, b * (s + p))),
        )

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8),
            "s": (128, 256, 512, 1024, 2048, 4096, 8192, 16384),
            "p": (0, 1024, 4096, 16384, 65536),
        }
