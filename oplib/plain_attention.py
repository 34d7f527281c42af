"""The shared body of context_attention and generation_attention."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, modulo
from oplib.attention_work import (
    HeadSizes,
    cached_tokens,
    capped_pairs,
    check_head_groups,
    chunked_pairs,
    limited_cache,
    plain_heads,
)
from oplib.dtypes import storage_bytes
from oplib.errors import InvalidInputError
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
from oplib.table_format import SameAs, TableFormat


def visible_cache(p: Amount, params: Params) -> Amount:
    """Cached tokens at hand: all, or what the window or the chunk leaves of them in the cache or lets a kernel read."""
    chunk = integer(params, "chunk")
    if chunk and text(params, "masking") == "skipped":
        return modulo(p, chunk)
    return cached_tokens(p, params, chunk or integer(params, "window"))


def pairs(s: Amount, p: Amount, params: Params) -> Amount:
    """(query, key) pairs per sequence and head that are worked on.

    computed: the rectangle of s queries by all keys at hand. skipped: only pairs that the causal mask, the window or
    the chunk leaves; without a causal mask nothing is skipped.
    """
    if text(params, "masking") == "computed" or not flag(params, "causal"):
        return s * (s + visible_cache(p, params))
    if chunk := integer(params, "chunk"):
        return chunked_pairs(s, p, chunk)
    return capped_pairs(s, limited_cache(p, params), integer(params, "window"))


class PlainAttention(OpKind):
    """Attention whose cache keeps keys and values as they are; a subclass names the phase, docs and grid."""

    role: ClassVar[Role] = "attention"
    dims: ClassVar[tuple[str, ...]] = ("b", "s", "p")
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="query heads"),
        Param(name="num_kv_heads", type=int, doc="key and value heads"),
        Param(name="head_dim", type=int, doc="size of a query and of a key"),
        Param(name="v_head_dim", type=int, doc="size of a value"),
        WINDOW,
        Param(
            name="chunk",
            type=int,
            default=0,
            minimum=0,
            doc="positions are cut into chunks that do not see each other; 0: not cut",
        ),
        Param(
            name="softcap",
            type=float,
            default=0.0,
            minimum=0,
            doc="scores pass through softcap·tanh(score/softcap); 0: they do not",
        ),
        Param(
            name="sinks", type=bool, default=False, doc="one learned score per head joins softmax"
        ),
        Param(
            name="bias",
            type=str,
            default="none",
            doc="what joins the scores beside the mask: a slope per head times the distance, a learned value per head "
            "and distance, or a value per sequence, head and pair that other ops make of the tokens",
            allowed=("none", "alibi", "relative", "content"),
        ),
        WHOLE_CACHE,
        CACHE_LIMIT,
        CAUSAL,
        ACTIVATION_DTYPE,
        KV_DTYPE,
        MASKING,
    )

    coordinates: ClassVar[tuple[str, ...]] = ("b", "s", "p", "num_heads", "num_kv_heads")
    immaterial: ClassVar[tuple[str, ...]] = ("softcap", "sinks", "whole_cache", "cache_limit")

    @property
    def table_format(self) -> TableFormat:
        return TableFormat(
            stem=f"{self.name}_perf",
            columns={
                "b": "batch_size",
                "s": "isl",
                "p": "step",
                "num_kv_heads": "num_key_value_heads",
                "window": "window_size",
                "dtype": "attn_dtype",
                "kv_dtype": "kv_cache_dtype",
            },
            absent={"v_head_dim": SameAs(name="head_dim")},
        )

    def check(self, params: Params) -> None:
        check_head_groups(self.name, params)
        if integer(params, "window") and integer(params, "chunk"):
            raise InvalidInputError(
                f"{self.name} has window {params['window']} and chunk {params['chunk']}.",
                "At most one of them is set.",
            )
        if 0 < integer(params, "cache_limit") < integer(params, "chunk") - 1:
            raise InvalidInputError(
                f"{self.name} has cache_limit {params['cache_limit']} and chunk {params['chunk']}.",
                "A cache that loses keys of the running chunk is no chunked attention.",
            )

    def sizes(self, params: Params) -> HeadSizes:
        return plain_heads(
            heads=integer(params, "num_heads"),
            kv_heads=integer(params, "num_kv_heads"),
            head_dim=integer(params, "head_dim"),
            v_head_dim=integer(params, "v_head_dim"),
        )

    def flops(self, params: Params, dims: Dims) -> Amount:
        return self.sizes(params).flops(dims["b"], pairs(dims["s"], dims["p"], params))

    def bytes(self, params: Params, dims: Dims) -> Amount:
        cached = visible_cache(dims["p"], params)
        moved = self.sizes(params).bytes(dims["b"], dims["s"], cached, params)
        if flag(params, "sinks"):
            moved += integer(params, "num_heads") * storage_bytes(text(params, "dtype"))
        return moved + self._bias_bytes(params, dims)

    def _bias_bytes(self, params: Params, dims: Dims) -> Amount:
        """Slopes once a head; values per pair once for all sequences, or once for each."""
        values = {
            "none": 0,
            "alibi": 1,
            "relative": pairs(dims["s"], dims["p"], params),
            "content": dims["b"] * pairs(dims["s"], dims["p"], params),
        }[text(params, "bias")]
        return integer(params, "num_heads") * values * storage_bytes(text(params, "dtype"))

    def regime(self, params: Params, dims: Dims) -> Amount:
        """1 where several new tokens of a windowed or chunked layer need more than the causal mask of a fresh prompt:
        where some of what they follow is hidden, or in the cache. Else 0.

        Kernels know that mask by a flag; one that takes any other as a tensor works on all pairs. A lone token sees
        what the cache still has.
        """
        limit = integer(params, "window") or integer(params, "chunk")
        if not limit:
            return 0
        s, p = dims["s"], dims["p"]
        return 1 * ((s > 1) & ((p > 0) | (s > limit)))

    def compute_dtype(self, params: Params) -> str:
        return text(params, "dtype")
