"""Memory-bound neighbours run as one kernel: what one writes and the next reads never leaves the chip.

Two neighbours fuse when the same number of other ops (products, attention, scans) lies before them on the
longest path: then no path leads out of the cluster and back, and the cluster can run as one. Work that only one
later cluster needs is counted with it. Clusters stay inside a layer.
"""

from __future__ import annotations

from torch import fx

from tracer.match.claim import Claim, Matched
from tracer.match.pointwise import measure
from tracer.rewrite import rewrite


@rewrite("fuse_pointwise", lowerings=("torch", "serving"), order=60)
def fuse_pointwise(matched: Matched) -> int:
    """Replace neighbouring pointwise claims by one with the bytes in and out of all."""
    flow, owner = matched.flow, matched.owner
    level = _levels(matched, owner)
    _sink(matched, owner, level)
    parent: dict[Claim, Claim] = {c: c for c in matched.of("pointwise")}

    def find(claim: Claim) -> Claim:
        while parent[claim] is not claim:
            claim = parent[claim]
        return claim

    for node in flow.nodes:
        claim = owner.get(node)
        if claim not in parent:
            continue
        for value in flow.inputs[node]:
            other = owner.get(flow.source(value))
            if other in parent and _together(matched, level, other, claim):
                parent[find(other)] = find(claim)
    clusters: dict[Claim, list[Claim]] = {}
    for claim in parent:
        clusters.setdefault(find(claim), []).append(claim)
    merged = [members for members in clusters.values() if len(members) > 1]
    for members in merged:
        merge(matched, members, by="fuse_pointwise")
    matched.sort()
    return len(merged)


def _together(matched: Matched, level: dict[fx.Node, int], a: Claim, b: Claim) -> bool:
    flow = matched.flow
    layers = [flow.pruning.of(flow.origin(c.anchor).module) for c in (a, b)]
    if layers[0] is not layers[1]:
        return False
    return level[a.anchor] == level[b.anchor]


def _levels(matched: Matched, owner: dict[fx.Node, Claim]) -> dict[fx.Node, int]:
    """Other ops on the longest path to each node; all nodes of one op share a level."""
    level: dict[fx.Node, int] = {}
    for node in matched.flow.trace.graph.nodes:
        mine = owner.get(node)
        depth = 0
        for value in matched.flow.inputs[node]:
            theirs = owner.get(value)
            outside = value in matched.primitives or (
                theirs is not None and theirs.kind != "pointwise"
            )
            depth = max(depth, level[value] + (outside and theirs is not mine))
        level[node] = depth
    return level


def _sink(matched: Matched, owner: dict[fx.Node, Claim], level: dict[fx.Node, int]) -> None:
    """Work whose results are all used at one later level runs there: a gate's sigmoid beside the product it gates."""
    for claim in reversed(list(matched.of("pointwise"))):
        users = matched.flow.readers(claim.nodes) - set(claim.nodes)
        later = {
            level[u] if (c := owner.get(u)) is not None and c.kind == "pointwise" else None
            for u in users
        }
        if len(later) == 1 and (at := later.pop()) is not None:
            level.update(dict.fromkeys(claim.nodes, at))


def merge(matched: Matched, members: list[Claim], *, by: str) -> None:
    """Put clusters together into one, with the bytes in and out of all."""
    flow = matched.flow
    members.sort(key=lambda c: flow.position(c.anchor))
    fused = Claim(
        kind="pointwise",
        params={},
        dims={},
        nodes=sorted((n for c in members for n in c.nodes), key=flow.position),
        anchor=members[-1].anchor,
        rewrites=list(dict.fromkeys([*(r for c in members for r in c.rewrites), by])),
    )
    measure(flow, fused)
    gone = set(members)
    matched.claims = [c for c in matched.claims if c not in gone]
    matched.claims.append(fused)
