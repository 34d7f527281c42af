"""Linear layers that read the same input become one product: q, k, v; gate and up. FLOPs and weights stay the same.

Only siblings merge (same parent module), and never a router, whose result chooses the experts. Narrow
projections (under 128 columns next to one at least 16 times as wide: one value per head, one gate per token)
merge among themselves: engines keep them out of the wide product, whose tiles they would break.
"""

from __future__ import annotations

from itertools import groupby

import sympy
from torch import fx

from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.rewrite import rewrite

NARROW, FAR_WIDER = 128, 16


@rewrite("merge_parallel_linears", lowerings=("serving",), order=30)
def merge_parallel_linears(matched: Matched) -> int:
    """Replace each group by one gemm with the sum of the columns."""
    groups: dict[tuple, list[Claim]] = {}
    routing = {n for c in matched.of("moe") for n in c.nodes if n is not c.anchor}
    for claim in matched.of("gemm"):
        if routing & matched.flow.readers([claim.anchor]):
            continue
        groups.setdefault(_key(matched, claim), []).append(claim)
    fired = 0
    for group in groups.values():
        widest = max(c.params["n"] for c in group)
        for _, part in groupby(
            sorted(group, key=lambda c: _narrow(c, widest)), key=lambda c: _narrow(c, widest)
        ):
            members = sorted(part, key=lambda c: matched.flow.position(c.anchor))
            if len(members) > 1:
                _merge(matched, members)
                fired += 1
    return fired


_RESHAPES = frozenset(
    ["view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "_unsafe_view", "alias"]
)


def _unshaped(value: fx.Node) -> fx.Node:
    """Back through views that keep every element in its order; a slice is another input than its neighbour."""
    while value.op == "call_function" and targets.is_view(value):
        name = targets.base_name(value)
        if name not in _RESHAPES and name not in targets.CASTS:
            break
        value = value.all_input_nodes[0]
    return value


def _narrow(claim: Claim, widest: int) -> bool:
    return claim.params["n"] < NARROW and claim.params["n"] * FAR_WIDER <= widest


def _key(matched: Matched, claim: Claim) -> tuple:
    flow = matched.flow
    module = flow.origin(claim.anchor).module
    source = _unshaped(claim.inputs[0])
    return (
        source,
        flow.shape(claim.inputs[0])[-1],
        sympy.expand(claim.dims["m"]),
        claim.params["dtype"],
        claim.params.get("group_size"),
        claim.params["bias"],
        module.rpartition(".")[0],
    )


def _merge(matched: Matched, members: list[Claim]) -> None:
    first = members[0]
    first.params = {**first.params, "n": sum(c.params["n"] for c in members)}
    first.nodes = [n for c in members for n in c.nodes]
    first.parameters = [p for c in members for p in c.parameters]
    first.name = joined([matched.flow.origin(c.anchor).module for c in members])
    first.rewrites.append("merge_parallel_linears")
    for claim in members[1:]:
        matched.claims.remove(claim)


def joined(paths: list[str]) -> str:
    """One name for sibling modules: a.q_proj, a.k_proj, a.v_proj -> a.qkv_proj; a.gate_proj, a.up_proj ->
    a.gate_up_proj.
    """
    parent = paths[0].rpartition(".")[0]
    names = [path.rpartition(".")[2] for path in paths]
    heads = [name.partition("_")[0] for name in names]
    tails = {name.partition("_")[2] for name in names}
    if len(tails) == 1 and (tail := tails.pop()):
        separator = "" if all(len(head) == 1 for head in heads) else "_"
        merged = f"{separator.join(heads)}_{tail}"
    else:
        merged = "+".join(names)
    return f"{parent}.{merged}" if parent else merged
