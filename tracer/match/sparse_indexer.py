"""The indexer of sparse attention: scores of every key, and the selection of the best ones."""

from __future__ import annotations

import sympy
from torch import fx

from oplib.symbols import P
from tracer.match import Stage, matcher, targets
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow, Role
from tracer.match.moe import is_routing
from tracer.match.selection import key_ratio, selection, selection_limit

_PRODUCTS = ("aten.matmul", "aten.bmm", "aten.einsum")


@matcher("sparse_indexer", "trace_model.attention", stage=Stage.PATTERN)
def sparse_indexer(flow: Flow, node: fx.Node, taken) -> Result:
    """Everything between the product of index queries with index keys and the indices that an attention node gets,
    or the top-k that its mask is made of.
    """
    indices, chosen = node.args[6], None
    if indices is None and (found := selection(flow, node.args[3])):
        chosen = found.node
        if targets.is_aten(chosen):
            indices = next(iter(chosen.users))
    if indices is None or (chosen or indices) in taken:
        return None
    above = set(flow.ancestors([indices], stop=lambda n: targets.full_name(n) == "aten.linear"))
    products = sorted(
        (n for n in above if targets.full_name(n) in _PRODUCTS and _of_data(flow, n)),
        key=flow.position,
    )
    selections = [n for n in above if targets.base_name(n) == "topk"]
    if not products or len(selections) != 1:
        return Refusal(
            node=node,
            op="sparse_indexer",
            reason="no single top-k over scores leads to its indices",
        )
    score = products[0]
    query, key = score.args[:2]
    q, k = flow.shape(query), flow.shape(key)
    below = flow.descendants(score) & above
    unknown = [
        n for n in below if targets.full_name(n) not in _PRODUCTS and not is_routing(flow, n)
    ]
    if unknown:
        return Refusal(
            node=node, op="sparse_indexer", reason=f"{targets.full_name(unknown[0])} is part of it"
        )
    batch, new, heads, head_dim = q if len(q) == 4 else (*q, sympy.Integer(1))[:4]
    keys = k[-1]
    ratio = key_ratio(flow, keys) or 1
    if ratio == 1 and sympy.expand(keys - new) not in (P, 0):
        return Refusal(node=node, op="sparse_indexer", reason=f"it scores {keys} keys")
    topk = selection_limit(flow.shape(indices)[-1], keys)
    if topk is None:
        reason = f"its selection grows with the length: {flow.shape(indices)[-1]} keys"
        return Refusal(node=node, op="sparse_indexer", reason=reason)
    summed = sum(targets.full_name(n) in _PRODUCTS for n in below) > 1
    return Claim(
        kind="sparse_indexer",
        params={
            "num_heads": int(heads),
            "head_dim": int(head_dim),
            "topk": topk,
            "ratio": ratio,
            "weighted_sum": "product" if summed else "elementwise",
            "dtype": flow.dtype(_unwidened(query)),
            "masking": "computed",
        },
        dims={"b": batch, "s": new, "p": P if ratio > 1 else keys - new},
        nodes=sorted(below, key=flow.position),
        anchor=selections[0],
        inputs=[query, key],
    )


@matcher("block_selection", "trace_model.block_selection")
def block_selection(flow: Flow, node: fx.Node, _taken) -> Result:
    """Queries (B,S,H,D) over the keys of complete blocks, of which each query scores those it sees."""
    query, _, ratio, topk = node.args
    batch, new, heads, head_dim = flow.shape(query)
    return Claim(
        kind="sparse_indexer",
        params={
            "num_heads": int(heads),
            "head_dim": int(head_dim),
            "topk": topk,
            "ratio": ratio,
            "weighted_sum": "none",
            "dtype": flow.dtype(query),
            "masking": "skipped",
        },
        dims={"b": batch, "s": new, "p": P},
        nodes=[node],
        anchor=node,
        inputs=list(node.args[:2]),
    )


def _of_data(flow: Flow, node: fx.Node) -> bool:
    """Whether both factors hold token data: rotary angles may be products too."""
    return all(flow.role[factor] is Role.DATA for factor in node.args[:2])


def _unwidened(node: fx.Node) -> fx.Node:
    """Back through a cast to float32, which serving kernels do not make."""
    return node.args[0] if targets.base_name(node) in targets.CASTS else node
