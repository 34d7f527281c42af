"""The routing of experts that are written as one batched product over all of them."""

from __future__ import annotations

from torch import fx

from tracer.match import Stage, matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow
from tracer.match.targets import full_name


@matcher("dense_experts_routing", "aten.topk", stage=Stage.PATTERN)
def dense_experts_routing(flow: Flow, node: fx.Node, _taken) -> Result:
    """A top-k over the scores of a router, where the same block multiplies with a stack of one matrix per expert."""
    scores = flow.source(node.args[0])
    if full_name(scores) != "aten.linear" or flow.parameter(scores.args[1]) is None:
        return Refusal(
            node=node, op="moe", reason="the scores do not come out of a router's linear layer"
        )
    experts = int(flow.shape(scores)[-1])
    block = flow.origin(node).module.rpartition(".")[0]
    stacked = [
        n
        for n in flow.nodes
        if full_name(n) in ("aten.bmm", "aten.matmul")
        and flow.origin(n).module.startswith(block)
        and (found := flow.parameter(n.args[1]))
        and next(iter(flow.shape(found[0]))) == experts
    ]
    if not stacked:
        return Refusal(
            node=node,
            op="moe",
            reason=f"no product with a stack of {experts} expert matrices follows",
        )
    return Claim(
        kind="pointwise",
        params={"functions": "topk", "dtype": flow.dtype(node.args[0])},
        dims={"read": flow.bytes(node.args[0]), "written": flow.bytes(node)},
        nodes=[node],
        anchor=node,
        inputs=[node.args[0]],
    )
