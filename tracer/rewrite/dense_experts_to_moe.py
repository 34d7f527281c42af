"""Experts written as one batched product over all of them run as routed experts: only the chosen top-k per token.

FLOPs fall by num_experts / top_k; weights stay the same.
"""

from __future__ import annotations

from itertools import pairwise

from torch import fx

from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.match.moe import routing_nodes
from tracer.rewrite import rewrite


@rewrite("dense_experts_to_moe", lowerings=("serving",), order=20)
def dense_experts_to_moe(matched: Matched) -> int:
    """Replace (top-k, repeat, scale, product, activation, product, sum) by one moe."""
    stacked = [
        c
        for c in matched.of("bmm")
        if c.params["shared_b"] and c.parameters and _experts(matched, c)
    ]
    fired = 0
    for first, second in pairwise(stacked):
        if _follows(matched, first, second):
            fired += _replace(matched, first, second)
    return fired


def _experts(matched: Matched, claim: Claim) -> int:
    shape = matched.flow.shape(claim.parameters[0])
    return int(shape[0]) if len(shape) == 3 else 0


def _follows(matched: Matched, first: Claim, second: Claim) -> bool:
    same = _experts(matched, first) == _experts(matched, second)
    hidden, width = first.params.get("k"), first.params.get("n")
    inner = second.params.get("k")
    if hidden is None or width is None or inner is None:
        return False
    return same and width in (inner, 2 * inner) and hidden == second.params.get("n")


def _replace(matched: Matched, first: Claim, second: Claim) -> int:
    flow, owner = matched.flow, matched.owner
    block = flow.origin(first.anchor).module.rpartition(".")[0]
    before = routing_nodes(flow, list(first.inputs), block, set(matched.free))
    chosen = [n for n in before if targets.base_name(n) == "topk"]
    if len(chosen) != 1:
        return 0
    between = _between(matched, first.anchor, list(second.inputs))
    after = _sum_behind(second.anchor)
    nodes = [*before, first.anchor, *between, second.anchor, *after]
    others = {c for n in nodes if (c := owner.get(n)) is not None and c.kind != "pointwise"}
    if others - {first, second}:
        return 0  # other ops lie between the two products
    values = chosen[0].meta["val"]
    moe = Claim(
        kind="moe",
        params={
            "hidden_size": first.params["k"],
            "intermediate_size": second.params["k"],
            "num_experts": _experts(matched, first),
            "top_k": int(values[0].shape[-1]),
            "gated": first.params["n"] == 2 * second.params["k"],
            "dtype": first.params["dtype"],
        },
        dims={"m": first.dims["m"]},
        nodes=[n for n in dict.fromkeys(nodes) if n in owner],
        anchor=first.anchor,
        inputs=list(first.inputs),
        parameters=[*first.parameters, *second.parameters],
        rewrites=["dense_experts_to_moe"],
    )
    inside = set(moe.nodes)
    matched.claims = [c for c in matched.claims if not set(c.nodes) <= inside]
    matched.claims.append(moe)
    return 1


def _between(matched: Matched, start: fx.Node, ends: list[fx.Node]) -> list[fx.Node]:
    """Nodes on paths from one node to others."""
    below = matched.flow.descendants(start)
    above = matched.flow.ancestors(ends, stop=lambda n: n is start)
    return [n for n in above if n in below and n not in matched.free]


def _sum_behind(node: fx.Node) -> list[fx.Node]:
    """The reduction over experts that follows through views."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if targets.base_name(node) == "sum":
            return [node]
        if not targets.is_view(node):
            return []
    return []
