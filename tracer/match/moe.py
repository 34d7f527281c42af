"""Routed experts, with the routing that turns the router's scores into expert indices and weights."""

from __future__ import annotations

from torch import fx

from tracer.match import Stage, matcher, targets
from tracer.match.claim import Claim, Result
from tracer.match.flow import Flow, Role


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


def is_routing(flow: Flow, node: fx.Node) -> bool:
    """Whether routing may consist of this: views, memory-bound work, and a top-k over the experts of a token."""
    if targets.is_view(node) or targets.is_constant(node) or targets.is_shape_arithmetic(node):
        return True
    if targets.is_pointwise(node):
        return True
    if not targets.is_aten(node) or targets.base_name(node) != "topk":
        return False
    axis = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
    return axis in (-1, len(flow.shape(node.args[0])) - 1)


def routing_nodes(flow: Flow, outputs: list[fx.Node], block: str, taken) -> list[fx.Node]:
    """Nodes of the block that lead from its router's product to `outputs`, in order."""

    def stop(node: fx.Node) -> bool:
        module = flow.origin(node).module
        inside = module == block or module.startswith(f"{block}.")
        return not inside or flow.role[node] is Role.POSITION or not is_routing(flow, node)

    found = [
        n for n in flow.ancestors(outputs, stop) if n not in taken and flow.role[n] is Role.DATA
    ]
    return sorted(found, key=flow.position)
