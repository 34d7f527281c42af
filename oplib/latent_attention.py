"""The shared body of context_mla and generation_mla."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.attention_work import (
    HeadSizes,
    cached_tokens,
    capped_pairs,
    latent_heads,
    limited_cache,
)
from oplib.kind import Dims, OpKind, Role
from oplib.params import (
    ACTIVATION_DTYPE,
    CACHE_LIMIT,
    CAUSAL,
    KV_DTYPE,
    MASKING,
    WHOLE_CACHE,
    WINDOW,
    Param,
    Params,
    flag,
    integer,
    text,
)
from oplib.table_format import TableFormat


class LatentAttention(OpKind):
    """Attention whose cache keeps one latent per token; a subclass names the phase, docs and grid."""

    role: ClassVar[Role] = "attention"
    dims: ClassVar[tuple[str, ...]] = ("b", "s", "p")
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="query heads"),
        Param(name="kv_lora_rank", type=int, doc="size of the latent of keys and values"),
        Param(name="qk_nope_head_dim", type=int, minimum=0, doc="key part without position"),
        Param(name="qk_rope_head_dim", type=int, minimum=0, doc="key part with rotary position"),
        Param(name="v_head_dim", type=int, doc="size of a value"),
        WINDOW,
        WHOLE_CACHE,
        CACHE_LIMIT,
        Param(name="absorbed", type=bool, doc="heads share the latent instead of expanding it"),
        CAUSAL,
        ACTIVATION_DTYPE,
        KV_DTYPE,
        MASKING,
    )

    coordinates: ClassVar[tuple[str, ...]] = ("b", "s", "p", "num_heads")
    immaterial: ClassVar[tuple[str, ...]] = ("whole_cache", "cache_limit")

    @property
    def table_format(self) -> TableFormat:
        """The published tables are all of DeepSeek-V3's heads, expanded in context and absorbed in generation."""
        return TableFormat(
            stem=f"{self.name}_perf",
            columns={
                "b": "batch_size",
                "s": "isl",
                "p": "step",
                "dtype": "mla_dtype",
                "kv_dtype": "kv_cache_dtype",
            },
            absent={
                "kv_lora_rank": 512,
                "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64,
                "v_head_dim": 128,
                "absorbed": self.name == "generation_mla",
            },
        )

    def sizes(self, params: Params) -> HeadSizes:
        return latent_heads(
            heads=integer(params, "num_heads"),
            rank=integer(params, "kv_lora_rank"),
            nope=integer(params, "qk_nope_head_dim"),
            rope=integer(params, "qk_rope_head_dim"),
            v_head_dim=integer(params, "v_head_dim"),
            absorbed=flag(params, "absorbed"),
        )

    def flops(self, params: Params, dims: Dims) -> Amount:
        s, p = dims["s"], dims["p"]
        rectangle = text(params, "masking") == "computed" or not flag(params, "causal")
        window = integer(params, "window")
        pairs = (
            s * (s + cached_tokens(p, params, window))
            if rectangle
            else capped_pairs(s, limited_cache(p, params), window)
        )
        return self.sizes(params).flops(dims["b"], pairs)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        cached = cached_tokens(dims["p"], params, integer(params, "window"))
        return self.sizes(params).bytes(dims["b"], dims["s"], cached, params)

    def compute_dtype(self, params: Params) -> str:
        return text(params, "dtype")
