"""context_mla_module: a whole latent attention module over the new tokens of a prompt."""

from __future__ import annotations

from typing import ClassVar

from oplib.kind import Dims, Ways
from oplib.latent_module import (
    DEEPSEEK_V3,
    LatentModule,
    absorbed,
    core_params,
    expanded,
    inward,
    outward,
    part,
)
from oplib.params import Params


class ContextMlaModule(LatentModule):
    """A latent attention module of many new tokens, from the normed hidden states to the output projection.

    Computes:
        y = o(attention(q_b(q_a(x)), kv_b(kv_a(x)))), the layers being linear and the attention that of context_mla.
        It stands for those ops and is never listed beside them; what ranks sum up behind it is an op of its own.
    Shapes:
        x, y[b, s, hidden_size]; H = num_heads, Q = q_lora_rank, L = kv_lora_rank, N = qk_nope_head_dim,
        R = qk_rope_head_dim, V = v_head_dim. Keeps b, s and p apart, as its attention does.
    FLOPs:
        With x = b·s: gemm x·hidden_size·(Q + L + R), gemm x·Q·H·(N + R), gemm x·H·V·hidden_size, and of two ways the
        one with fewer. Expanded: gemm b·(s + p)·L·H·(N + V) and context_mla expanded. Absorbed: bmm x·N·L and
        x·L·V per head and context_mla absorbed. Each product counts 2 of these. With Q = 0 queries are projected at
        once. Norms, rotary and the quantisation of activations are ignored.
    Bytes:
        Those of the parts, by the way with fewer: every part reads its input and writes its output. Norms and
        rotary are ignored. The speed of light is the sum of the parts' own bounds, each the longer of its FLOPs and
        its bytes, by the way with the least sum.
    Weights:
        Those of the parts, with L·H·(N + V) for either way; the op list has the exact bytes.
    Valid range:
        s at least 1, p at least 0.
    Error:
        Leave-one-out figures of each table: docs/interpolation.md.
    Source:
        DeepSeek-V2, arXiv:2405.04434v5, section 2.1 and appendix C: https://arxiv.org/abs/2405.04434v5; sizes of the
        published rows: DeepSeek-V3, arXiv:2412.19437v2, section 4.2: https://arxiv.org/abs/2412.19437v2
    """

    name: ClassVar[str] = "context_mla_module"
    phase: ClassVar[str] = "context"
    cores: ClassVar[tuple[str, ...]] = ("context_mla",)
    op_names: ClassVar[tuple[str, ...]] = ("mla_context_module",)
    models = DEEPSEEK_V3

    def ways(self, params: Params, dims: Dims) -> Ways:
        b, s, p = dims["b"], dims["s"], dims["p"]
        cores = {
            form: part("context_mla", core_params(params, absorbed=form), b=b, s=s, p=p)
            for form in (False, True)
        }
        around = [*inward(params, b * s), outward(params, b * s)]
        return (
            (*around, *expanded(params, cores[False], b * (s + p))),
            (*around, *absorbed(params, cores[True], b * s)),
        )

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8),
            "s": (128, 256, 512, 1024, 2048, 4096, 8192, 16384),
            "p": (0, 1024, 4096, 16384),
        }
