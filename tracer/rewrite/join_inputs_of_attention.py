"""What prepares the inputs of one attention side by side runs as one kernel: rotary of queries and of keys, and their
norms.

Engines turn queries and keys in one launch, which reads the table of angles once. Bytes fall by what two clusters both
read; work and weights stay the same. Source: vLLM 0.24, csrc/pos_encoding_kernels.cu; TensorRT-LLM 1.3,
fusedQKNormRopeKernel.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from oplib.op import kind
from tracer.match.claim import Claim, Matched
from tracer.rewrite import rewrite
from tracer.rewrite.fuse_pointwise import merge


@rewrite("join_inputs_of_attention", lowerings=("serving",), order=65)
def join_inputs_of_attention(matched: Matched) -> int:
    """Put together the pointwise clusters that one attention alone reads, where they read the same table or product."""
    owner = matched.owner
    by_reader: dict[Claim, list[Claim]] = {}
    for claim in matched.of("pointwise"):
        users = _users(matched, owner, claim)
        reader = users.pop() if len(users) == 1 else None
        if reader is not None and kind(reader.kind).role == "attention":
            by_reader.setdefault(reader, []).append(claim)
    joined = 0
    for clusters in by_reader.values():
        for members in _side_by_side(matched, owner, clusters):
            merge(matched, members, by="join_inputs_of_attention")
            joined += 1
    matched.sort()
    return joined


def _users(matched: Matched, owner: dict[fx.Node, Claim], claim: Claim) -> set[Claim | None]:
    """The claims that read a claim, through free nodes such as the append to a cache; None for a primitive."""
    found: set[Claim | None] = set()
    nodes, seen = list(claim.nodes), set(claim.nodes)
    while nodes:
        readers = matched.flow.readers(nodes) - seen
        seen |= readers
        nodes = [n for n in readers if n in matched.free]
        found |= {owner.get(n) for n in readers if n not in matched.free and n.op != "output"}
    return found


def _side_by_side(
    matched: Matched, owner: dict[fx.Node, Claim], clusters: list[Claim]
) -> list[list[Claim]]:
    """Those of the clusters that read something in common, directly or by way of a third."""
    flow = matched.flow
    groups: list[tuple[set[Any], list[Claim]]] = []  # Any: a claim or a node that several read
    for cluster in clusters:
        values = {v for n in cluster.nodes for v in flow.inputs[n]} - set(cluster.nodes)
        sources = {owner.get(flow.source(v), flow.source(v)) for v in values}
        beside = [group for group in groups if not group[0].isdisjoint(sources)]
        groups = [group for group in groups if group not in beside]
        members = [c for _, one in beside for c in one]
        groups.append((sources.union(*(s for s, _ in beside)), [*members, cluster]))
    return [members for _, members in groups if len(members) > 1]
