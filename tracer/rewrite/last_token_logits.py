"""A context pass needs the logits of each sequence's last token only: the head's product runs over b rows, not b*s."""

from __future__ import annotations

from torch import fx

from oplib.symbols import S
from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.rewrite import rewrite


@rewrite("last_token_logits", lowerings=("torch", "serving"), order=48)
def last_token_logits(matched: Matched) -> int:
    """The head, and what follows it up to the logits, at one token per sequence."""
    if matched.flow.trace.phase != "context":
        return 0
    owner = matched.owner
    claims: list[Claim] = []
    node = _logits(matched)
    while isinstance(node, fx.Node) and node.op == "call_function":
        claim = owner.get(node)
        if claim is not None and claim not in claims:
            claims.append(claim)
        if claim is not None and claim.kind == "gemm":
            for found in claims:
                found.dims = {name: size.subs(S, 1) for name, size in found.dims.items()}
                found.rewrites.append("last_token_logits")
            return 1
        if claim is not None and claim.kind != "pointwise":
            return 0
        if claim is None and not targets.is_view(node):
            return 0
        node = next((a for a in node.args if isinstance(a, fx.Node)), None)
    return 0


def _logits(matched: Matched) -> fx.Node:
    output = next(n for n in reversed(matched.flow.trace.graph.nodes) if n.op == "output")
    return output.args[0][0]
