"""The residual addition that ends a layer runs in one kernel with the norm that begins the next.

A representative layer stands for all layers of its kind, so its own last addition and its own first norm are put
together: each layer has one of each, and the hidden state between two layers is not read a second time.
"""

from __future__ import annotations

from torch import fx

from tracer.match.claim import Claim, Matched
from tracer.match.flow import Role
from tracer.rewrite import rewrite


@rewrite("fuse_across_layers", lowerings=("torch", "serving"), order=70)
def fuse_across_layers(matched: Matched) -> int:
    """Join the first and the last pointwise cluster of each representative layer."""
    flow = matched.flow
    by_layer: dict[str, list[Claim]] = {}
    for claim in matched.of("pointwise"):
        kept = flow.pruning.of(flow.origin(claim.anchor).module)
        if kept is not None and kept.layer.count > 1:
            by_layer.setdefault(kept.id, []).append(claim)
    return sum(_join(matched, traced, claims) for traced, claims in by_layer.items())


def _join(matched: Matched, traced: str, claims: list[Claim]) -> int:
    flow = matched.flow

    def inside(node: fx.Node) -> bool:
        kept = flow.pruning.of(flow.origin(node).module)
        return kept is not None and kept.id == traced

    entering = [
        (c, v) for c in claims for v in c.inputs
        if v.op == "call_function" and flow.role[v] is Role.DATA and not inside(flow.source(v))
    ]  # fmt: skip
    leaving = [(c, n) for c in claims for n in c.nodes if any(not inside(u) for u in flow.users[n])]
    if not entering or not leaving:
        return 0
    first, hidden_in = entering[0]
    last, hidden_out = leaving[-1]
    if first is last or flow.numel(hidden_in) != flow.numel(hidden_out):
        return 0
    last.dims = {
        "read": last.dims["read"] + first.dims["read"] - flow.bytes(hidden_in),
        "written": last.dims["written"] + first.dims["written"],
    }
    names = set(first.params["functions"].split("+")) | set(last.params["functions"].split("+"))
    last.params = {**last.params, "functions": "+".join(sorted(names))}
    last.name = f"{traced}.residual+{flow.origin(first.anchor).module.rpartition('.')[2]}"
    last.nodes = [*first.nodes, *last.nodes]
    last.parameters = [*first.parameters, *last.parameters]
    last.rewrites = list(dict.fromkeys([*first.rewrites, *last.rewrites, "fuse_across_layers"]))
    matched.claims.remove(first)
    return 1
