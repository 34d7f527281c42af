"""Routed experts, with the routing that turns the router's scores into expert indices and weights."""

from __future__ import annotations

from torch import fx

from tracer.match import Stage, matcher, targets
from tracer.match.claim import Claim, Result
from tracer.match.flow import Flow, Role

_PRODUCTS = frozenset({"aten.linear", "aten.matmul", "aten.bmm", "aten.mm", "aten.addmm"})


@matcher("moe", "trace_model.experts", stage=Stage.PATTERN)
def moe(flow: Flow, node: fx.Node, taken) -> Result:
    """An experts node, and what lies between the router's product and it within the same block."""
    hidden, index, weights, parameters, num_experts, intermediate, gated, bias = node.args
    block = flow.origin(node).module.rpartition(".")[0]
    routing = routing_nodes(flow, [index, weights], block, taken)
    owned = [p for w in parameters if (p := flow.parameter(w))]
    extra = [q[0] for n in routing for i in flow.inputs[n] if (q := flow.parameter(i))]
    width = int(flow.shape(hidden)[-1])
    return Claim(
        kind="moe",
        params={
            "hidden_size": width,
            "intermediate_size": intermediate,
            "num_experts": num_experts,
            "top_k": int(flow.shape(index)[-1]),
            "gated": gated,
            "dtype": flow.dtype(owned[0][0]),
            "bias": bias,
        },
        dims={"m": flow.numel(hidden) / width},
        nodes=[*routing, *(c for _, chain in owned for c in chain), node],
        anchor=node,
        inputs=[hidden, index, weights],
        parameters=list(dict.fromkeys([*(p for p, _ in owned), *extra])),
    )


def routing_nodes(flow: Flow, outputs: list[fx.Node], block: str, taken) -> list[fx.Node]:
    """Nodes of the block that lead from its router's product to `outputs`, in order."""

    def stop(node: fx.Node) -> bool:
        inside = flow.origin(node).module.startswith(block)
        return (
            not inside or targets.full_name(node) in _PRODUCTS or flow.role[node] is Role.POSITION
        )

    found = [
        n for n in flow.ancestors(outputs, stop) if n not in taken and flow.role[n] is Role.DATA
    ]
    return sorted(found, key=flow.position)
