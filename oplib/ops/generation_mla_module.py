"""generation_mla_module: a whole latent attention module over the newest token and the cache."""

from __future__ import annotations

from typing import ClassVar

from oplib.kind import Dims, Ways
from oplib.latent_module import (
    DEEPSEEK_V3,
    LatentModule,
    absorbed,
    core_params,
    inward,
    outward,
    part,
)
from oplib.params import Params


class GenerationMlaModule(LatentModule):
    """A latent attention module of one new token (or a few drafted ones) per sequence.

    Computes:
        As context_mla_module, absorbed: the attention is that of generation_mla in the latent space, between the
        products of each head into it and out of it. It stands for those ops and is never listed beside them.
    Shapes:
        As context_mla_module with s = 1, or a few tokens when several are verified at once.
    FLOPs:
        With x = b·s and the letters of context_mla_module: gemm x·hidden_size·(Q + L + R), gemm x·Q·H·(N + R), bmm
        x·N·L and x·L·V per head, gemm x·H·V·hidden_size, 2 for each of these products, and generation_mla absorbed.
        Norms, rotary and the quantisation of activations are ignored.
    Bytes:
        Those of the parts: weights once, inputs and outputs of each part, the cache as generation_mla reads it. Norms
        and rotary are ignored. The speed of light is the sum of the parts' own bounds, each the longer of its
        FLOPs and its bytes.
    Weights:
        As context_mla_module.
    Valid range:
        s at least 1, p at least 0.
    Error:
        Leave-one-out figures of each table: docs/interpolation.md.
    Source:
        DeepSeek-V2, arXiv:2405.04434v5, section 2.1.2 and appendix C: https://arxiv.org/abs/2405.04434v5
    """

    name: ClassVar[str] = "generation_mla_module"
    phase: ClassVar[str] = "generation"
    cores: ClassVar[tuple[str, ...]] = ("generation_mla",)
    op_names: ClassVar[tuple[str, ...]] = ("mla_generation_module",)
    models = DEEPSEEK_V3

    def ways(self, params: Params, dims: Dims) -> Ways:
        b, s, p = dims["b"], dims["s"], dims["p"]
        core = part("generation_mla", core_params(params, absorbed=True), b=b, s=s, p=p)
        way = [*inward(params, b * s), *absorbed(params, core, b * s), outward(params, b * s)]
        return (tuple(way),)

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1,),
            "p": (127, 511, 1023, 2047, 4095, 8191, 16383, 32767, 65535, 131071),
        }
