"""Attention boundaries: plain heads, latent (MLA), and sparse over selected keys.

Shapes: B batch, H query heads, K key/value heads, S new tokens, T visible keys, D head dim, V value head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
from torch import fx

from oplib.symbols import P
from tracer.match import matcher, targets
from tracer.match.bias import bias_of
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow
from tracer.match.selection import Selection, mask_nodes, selection, selection_limit

_ARGUMENTS = (
    "query",
    "key",
    "value",
    "mask",
    "sinks",
    "bias",
    "indices",
    "scale",
    "causal",
    "window",
    "chunk",
    "softcap",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attention, however it is written: its three inputs, the parameters that its form gives, and its sizes.

    Inputs of four axes are (B, heads, tokens, size). `nodes` is what the op stands for.
    """

    anchor: fx.Node
    query: fx.Node
    key: fx.Node
    value: fx.Node
    params: dict[str, Any]  # Any: values of an op's parameters
    batch: sympy.Expr
    new: sympy.Expr
    keys: sympy.Expr
    nodes: list[fx.Node]
    parameters: list[fx.Node]


def claim_of(flow: Flow, call: Call) -> Claim:
    """The claim of a call: plain heads, or latent ones where keys and values come out of a latent."""
    params = {
        **call.params,
        **_held(flow, call),
        "dtype": flow.dtype(call.query),
        "kv_dtype": flow.dtype(call.key),
        "masking": "computed",
    }
    claim = Claim(
        kind=f"{flow.trace.phase}_attention",
        params=params,
        dims={"b": call.batch, "s": call.new, "p": call.keys - call.new},
        nodes=call.nodes,
        anchor=call.anchor,
        inputs=[call.query, call.key, call.value],
        parameters=call.parameters,
        axes={"num_heads": (call.query, 1), "num_kv_heads": (call.key, 1)},
    )
    if found := latent(flow, call.key, call.value):
        claim.kind = f"{flow.trace.phase}_mla"
        claim.params = _latent_params(params, found)
        claim.axes.pop("num_kv_heads")
    return claim


def _held(flow: Flow, call: Call) -> dict[str, Any]:
    """What the cache behind the keys holds, where that is not what window or chunk leave: all, or so many tokens."""
    lengths = flow.cache_lengths(call.key)
    if len(lengths) != 1:
        return {}
    seen = call.params["window"] or call.params["chunk"]
    length = lengths.pop()
    if length == P:
        return {"whole_cache": True} if seen else {}
    limit = max(length.args, key=lambda part: part.is_Integer)
    return {} if limit == seen - 1 else {"cache_limit": int(limit)}


@matcher("attention", "trace_model.attention")
def attention(flow: Flow, node: fx.Node, taken) -> Result:
    """One attention node: `<phase>_attention`, `<phase>_mla`, or `sparse_attention` where it gets indices of keys, or a
    mask that a selection made.
    """
    call = dict(zip(_ARGUMENTS, node.args, strict=True))
    batch, heads, new, head_dim = flow.shape(call["query"])
    _, kv_heads, keys, _ = flow.shape(call["key"])
    if keys != new + P and keys != new:
        return Refusal(
            node=node,
            op=f"{flow.trace.phase}_attention",
            reason=f"it sees {keys} keys, not the p cached and {new} new tokens",
        )
    params = {
        "num_heads": int(heads),
        "num_kv_heads": int(kv_heads),
        "head_dim": int(head_dim),
        "v_head_dim": int(flow.shape(call["value"])[-1]),
        "window": call["window"],
        "chunk": call["chunk"],
        "softcap": call["softcap"],
        "sinks": call["sinks"] is not None,
        "bias": bias_of(flow, [call["bias"]] if call["bias"] is not None else []),
        "causal": call["causal"],
    }
    parameters, extra = [], []
    for given in (call["sinks"], call["bias"]):
        if given is not None and (owned := flow.owned(given)):
            parameters.append(owned[0])
            extra += owned[1]
    claim = claim_of(
        flow,
        Call(
            anchor=node,
            query=call["query"],
            key=call["key"],
            value=call["value"],
            params=params,
            batch=batch,
            new=new,
            keys=keys,
            nodes=[*extra, node],
            parameters=parameters,
        ),
    )
    chosen = _chosen(flow, call)
    if chosen is None:
        return claim
    scored = keys if call["indices"] is not None else flow.shape(chosen.node.args[0])[-1]
    topk = selection_limit(chosen.keys, scored)
    if topk is None:
        reason = f"its selection grows with the length: {chosen.keys} keys"
        return Refusal(node=node, op="sparse_attention", reason=reason)
    if call["indices"] is None:
        masking = [n for n in mask_nodes(flow, call["mask"], node) if n not in taken]
        claim.nodes = [*masking, *claim.nodes]
    return _selected(flow, claim, chosen, topk)


def _chosen(flow: Flow, call: dict[str, Any]) -> Selection | None:
    """The selection that an attention gets as indices of keys, or that its mask is made of."""
    if (indices := call["indices"]) is not None:
        return Selection(node=indices, keys=flow.shape(indices)[-1], block=1, tail=False)
    return selection(flow, call["mask"])


def _selected(flow: Flow, claim: Claim, chosen: Selection, topk: int) -> Claim:
    """The claim of an attention as one over `topk` selected keys or blocks of keys."""
    claim.kind = "sparse_attention"
    if "kv_lora_rank" not in claim.params:
        claim.params = _plain_sparse_params(claim.params)
    for name in ("window", "whole_cache", "cache_limit"):
        claim.params.pop(name, None)  # a selection is no window
    claim.params["topk"] = topk * chosen.block
    claim.params["index_source"] = _index_source(flow, claim.anchor, chosen.node)
    if chosen.block > 1:
        claim.params |= {"block": chosen.block, "tail": chosen.tail}
    claim.inputs.append(chosen.node)
    return claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """What an attention's keys and values are expanded from."""

    kv_lora_rank: int
    rope: int
    expansion: fx.Node


def latent(flow: Flow, key: fx.Node, value: fx.Node) -> Latent | None:
    """Keys and values that one linear layer expands from a narrow cached latent; heads may share a part of the key."""
    expansion = _linear_behind(flow, value)
    if (
        len(flow.shape(value)) != 4
        or expansion is None
        or expansion
        not in set(flow.ancestors([key], stop=lambda n: n is not expansion and _is_linear(n)))
    ):
        return None
    rank = int(flow.shape(expansion.args[1])[1])
    heads, value_dim = int(flow.shape(value)[1]), int(flow.shape(value)[-1])
    nope = int(flow.shape(expansion)[-1]) // heads - value_dim
    rope = int(flow.shape(key)[-1]) - nope
    if rope < 0 or nope <= 0 or rank >= heads * (nope + value_dim):
        return None
    if rope == 0 and not any(size.has(P) for size in flow.shape(expansion)):
        return None  # one layer that makes keys and values of the new tokens alone
    return Latent(kv_lora_rank=rank, rope=rope, expansion=expansion)


def _is_linear(node: fx.Node) -> bool:
    return targets.full_name(node) == "aten.linear"


def _linear_behind(flow: Flow, node: fx.Node) -> fx.Node | None:
    """The linear layer a value comes out of through views and an append to the cache, if there is one."""
    for _ in range(32):
        node = flow.source(node)
        if _is_linear(node):
            return node
        if node.op != "call_function" or targets.base_name(node) != "cat":
            return None
        node = node.args[0][-1]
    return None


def _latent_params(params: dict, latent: Latent) -> dict:
    cached = ("window", "whole_cache", "cache_limit")
    return {
        **{name: params[name] for name in cached if params.get(name)},
        "num_heads": params["num_heads"],
        "kv_lora_rank": latent.kv_lora_rank,
        "qk_nope_head_dim": params["head_dim"] - latent.rope,
        "qk_rope_head_dim": latent.rope,
        "v_head_dim": params["v_head_dim"],
        "dtype": params["dtype"],
        "kv_dtype": params["kv_dtype"],
        "causal": params["causal"],
        "masking": params["masking"],
        "absorbed": False,
    }


def _plain_sparse_params(params: dict) -> dict:
    names = (
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "v_head_dim",
        "dtype",
        "kv_dtype",
        "causal",
        "masking",
    )
    return {name: params[name] for name in names}


def _index_source(flow: Flow, node: fx.Node, indices: fx.Node) -> str:
    """Whether the indices come out of the layer's own indexer or of another layer's."""
    own, made = (flow.pruning.of(flow.origin(n).module) for n in (node, flow.source(indices)))
    return "indexer" if own is made else "shared"
