"""Small op lists whose split is known, and the pieces that tests build them of."""

from __future__ import annotations

from typing import Any

import sympy

from oplib.dtypes import weight_bytes
from oplib.op import Op
from oplib.oplist import Layer, OpList
from oplib.ops.moe import expert_bytes
from oplib.symbols import B, S

LAYERS = (
    Layer(stack="model.layers", cls="Dense", representative=0, count=2, indices=(0, 1)),
    Layer(stack="model.layers", cls="Mixture", representative=2, count=5, indices=(2, 3, 4, 5, 6)),
)
DENSE, MIXTURE = "model.layers.0", "model.layers.2"


def gemm(
    name: str, n: int, k: int, *, layer: str = DENSE, dtype: str = "bfloat16", **split: Any
) -> Op:
    """A gemm over b*s tokens; `column` and `row` are shards of n and k."""
    shards = {}
    if column := split.get("column"):
        shards["n"] = column
    if row := split.get("row"):
        shards["k"] = row
    kind = "column" if column else "row" if row else ""
    return Op(
        op="gemm",
        name=name,
        count=count_of(layer),
        params={"n": n, "k": k, "dtype": dtype},
        dims={"m": B * S},
        weight_bytes=weight_bytes(dtype, n, k),
        layer=layer,
        parallel=kind,
        shards={name: _sizes(dealt) for name, dealt in shards.items()},
        collective=split.get("collective", "all_reduce" if row else ""),
        message=2 * n * B * S,
    )


def count_of(layer: str) -> int:
    """How many layers an op of this representative occurs in."""
    return next((la.count for la in LAYERS if f"{la.stack}.{la.representative}" == layer), 1)


def _sizes(dealt: dict[int, int]) -> dict[int, sympy.Expr]:
    return {parts: sympy.Integer(size) for parts, size in dealt.items()}


def attention(heads: int, kv_heads: int, size: int, *, layer: str = DENSE) -> Op:
    """Causal attention of a context pass."""
    return Op(
        op="context_attention",
        name="self_attn.attention",
        count=count_of(layer),
        params={
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": size,
            "v_head_dim": size,
            "dtype": "bfloat16",
            "kv_dtype": "bfloat16",
        },
        dims={"b": B, "s": S, "p": sympy.S.Zero},
        layer=layer,
        parallel="heads",
        shards={
            "num_heads": _sizes({heads: heads}),
            "num_kv_heads": _sizes({kv_heads: kv_heads}),
        },
    )


def experts(hidden: int, inner: int, count: int, top_k: int, *, collective: str = "joined") -> Op:
    """Routed experts of the second kind of layer."""
    params = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_experts": count,
        "top_k": top_k,
        "dtype": "bfloat16",
    }
    op = Op(op="moe", name="mlp.experts", params=params, dims={"m": B * S})
    return Op(
        op="moe",
        name="mlp.experts",
        count=count_of(MIXTURE),
        params=params,
        dims={"m": B * S},
        weight_bytes=count * expert_bytes(op.params),
        layer=MIXTURE,
        parallel="experts",
        shards={
            "num_experts": _sizes({count: count}),
            "intermediate_size": _sizes({inner: inner}),
        },
        collective=collective,
        message=2 * hidden * B * S,
    )


def embedding(rows: int, width: int) -> Op:
    """A look-up outside the layers."""
    return Op(
        op="embedding",
        name="model.embed_tokens",
        params={"num_embeddings": rows, "embedding_dim": width, "dtype": "bfloat16"},
        dims={"m": B * S},
        weight_bytes=2 * rows * width,
        parallel="vocabulary",
        shards={"num_embeddings": _sizes({rows: rows})},
        collective="all_reduce",
        message=2 * width * B * S,
    )


def logits(rows: int, width: int) -> Op:
    """The head, over the last token of each sequence."""
    op = gemm("lm_head", rows, width, layer="", column={rows: rows}, collective="all_gather")
    return Op(
        op="gemm",
        name=op.name,
        params=op.params,
        dims={"m": B},
        weight_bytes=op.weight_bytes,
        parallel="column",
        shards=op.shards,
        collective="all_gather",
        message=2 * rows * B,
    )


def listed(*ops: Op) -> OpList:
    """A list whose phases are these ops."""
    return OpList(lowering="serving", phases={"context": ops, "generation": ops})


def mixture(
    *,
    heads: int = 8,
    kv: int = 4,
    size: int = 16,
    inner: int = 96,
    count: int = 16,
    vocab: int = 320,
) -> OpList:
    """A model of two dense layers and five with experts, a shared one beside them."""
    hidden, width, keys = 64, heads * size, 2 * kv * size
    ops: list[Op] = [embedding(vocab, hidden)]
    for layer in (DENSE, MIXTURE):
        qkv = {heads: width, kv: keys} if heads != kv else {heads: width + keys}
        ops += [
            gemm("self_attn.qkv_proj", width + keys, hidden, layer=layer, column=qkv),
            attention(heads, kv, size, layer=layer),
            gemm("self_attn.o_proj", hidden, width, layer=layer, row={heads: width}),
        ]
        if layer == MIXTURE:
            ops += [
                gemm("mlp.gate", count, hidden, layer=layer),
                experts(hidden, inner, count, 3),
            ]
        ops += [
            gemm("mlp.gate_up_proj", 2 * inner, hidden, layer=layer, column={inner: 2 * inner}),
            gemm("mlp.down_proj", hidden, inner, layer=layer, row={inner: inner}),
        ]
    return listed(*ops, logits(vocab, hidden))
