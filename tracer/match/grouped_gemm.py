"""Products of rows with the matrix of their expert."""

from __future__ import annotations

from torch import fx

from tracer.match import Stage, matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow, Role
from tracer.match.moe import is_routing
from tracer.match.targets import base_name, full_name


@matcher("grouped_gemm", "trace_model.grouped_linear")
def grouped_gemm(flow: Flow, node: fx.Node, _taken) -> Result:
    """(rows, k) with a parameter (groups, n, k)."""
    rows, weight = node.args
    found = flow.parameter(weight)
    if found is None:
        return Refusal(node=node, op="grouped_gemm", reason="its matrices are no parameter")
    groups, n, k = (int(size) for size in flow.shape(weight))
    return Claim(
        kind="grouped_gemm",
        params={"n": n, "k": k, "groups": groups, "dtype": flow.dtype(found[0])},
        dims={"m": flow.numel(rows) / k},
        nodes=[*found[1], node],
        anchor=node,
        inputs=[rows],
        parameters=[found[0]],
    )


@matcher("grouped_routing", "aten.topk", "aten.sort", "aten.index_add", stage=Stage.PATTERN)
def grouped_routing(flow: Flow, node: fx.Node, _taken) -> Result:
    """The choice of experts, the sort of rows by expert, and the sum over a token's rows, next to such a product."""
    block = flow.origin(node).module.rpartition(".")[0]
    if not any(
        full_name(n) == "trace_model.grouped_linear" and flow.origin(n).module.startswith(block)
        for n in flow.nodes
    ):
        return None
    name = base_name(node)
    values = flow.dtype(node.args[0])
    if name == "topk" and not is_routing(flow, node):
        return Refusal(node=node, op="grouped_gemm", reason="it does not choose among experts")
    if name == "sort" and not values.startswith("int"):
        return Refusal(node=node, op="grouped_gemm", reason=f"it sorts {values}, not expert ids")
    sources = [n for n in node.all_input_nodes if flow.role[n] is Role.DATA]
    return Claim(
        kind="pointwise",
        params={"functions": name, "dtype": values},
        dims={"read": sum(flow.bytes(n) for n in sources), "written": flow.bytes(node)},
        nodes=[node],
        anchor=node,
        inputs=sources,
    )
