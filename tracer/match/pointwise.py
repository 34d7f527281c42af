"""Memory-bound work: mathematics per element, norms, moves. As written each node is an op; lowerings fuse them."""

from __future__ import annotations

import sympy
import torch
from torch import fx

from oplib.symbols import evaluate
from tracer.match import Stage, matcher, targets
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow

#: Multiplications per element moved that memory still hides: vector units of current GPUs do about 14.
MOST_PER_ELEMENT = 8
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


@matcher("pointwise", stage=Stage.MEMORY)
def pointwise(flow: Flow, node: fx.Node, _taken) -> Result:
    """Any operator whose time is its bytes."""
    if not targets.is_pointwise(node):
        return None
    if _contracts(flow, node):
        return Refusal(
            node=node,
            op="bmm",
            reason="it sums products of every pair of two factors: a contraction, written per element",
        )
    claim = Claim(kind="pointwise", params={}, dims={}, nodes=[node], anchor=node)
    measure(flow, claim)
    return claim


def _contracts(flow: Flow, node: fx.Node) -> bool:
    """Whether a sum reads products of every pair of two factors, and there are many of them per element moved."""
    if targets.base_name(node) not in ("sum", "mean"):
        return False
    made = node.args[0]
    while (
        made.op == "call_function"
        and targets.base_name(made) in targets.CASTS
        and made.all_input_nodes
    ):
        made = made.all_input_nodes[0]
    if made.op != "call_function" or targets.base_name(made) not in ("mul", "multiply"):
        return False
    factors = [unexpanded(v) for v in made.all_input_nodes if _is_tensor(v)]
    if len(factors) != 2:
        return False
    moved = sum(_at_length(flow.numel(v)) for v in (*factors, node))
    return _at_length(flow.numel(made)) > MOST_PER_ELEMENT * moved


def measure(flow: Flow, claim: Claim) -> None:
    """Set what a pointwise claim reads and writes: values made outside it, and those of its own that others use."""
    claim.parameters = []
    reads, writes = traffic(flow, claim)
    claim.inputs = list(reads)
    claim.dims = {"read": sympy.Add(*_once(flow, reads)), "written": sympy.Add(*writes.values())}
    claim.params = {
        "functions": _functions(claim),
        "dtype": _dtype(claim),
    }


def traffic(
    flow: Flow, claim: Claim
) -> tuple[dict[fx.Node, sympy.Expr], dict[fx.Node, sympy.Expr]]:
    """Bytes of each value that a claim reads from outside and that others read from it; notes its parameters."""
    inside = set(claim.nodes)
    reads: dict[fx.Node, sympy.Expr] = {}
    writes: dict[fx.Node, sympy.Expr] = {}
    for node in claim.nodes:
        for value in node.all_input_nodes:
            if value.op == "call_function" and flow.source(value) in inside:
                continue
            _read(flow, claim, node, value, reads)
        if targets.mutated(node) or flow.readers([node]) - inside:
            writes[node] = flow.bytes(_written(node))
    return reads, writes


def _functions(claim: Claim) -> str:
    """What the cluster computes; casts are named only where there is nothing else."""
    names = {targets.base_name(n).strip("_") for n in claim.nodes}
    return "+".join(sorted(names - targets.CASTS or names))


def _dtype(claim: Claim) -> str:
    """The narrowest floating dtype that the cluster makes: what it hands on."""
    values = [v for n in claim.nodes for v in _tensors(n) if v.dtype.is_floating_point]
    if values:
        return _name(min((v.dtype for v in values), key=lambda d: d.itemsize))
    return _name(next((v.dtype for n in claim.nodes for v in _tensors(n)), torch.float32))


def _name(dtype: torch.dtype) -> str:
    """A dtype as ops name it: every float of a byte is fp8, unsigned integers go by their signed neighbours."""
    if dtype.is_floating_point and dtype.itemsize == 1:
        return "fp8"
    name = "float32" if dtype.is_complex else str(dtype).removeprefix("torch.")
    return name.removeprefix("u") if dtype in _UNSIGNED else name


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return [v for v in values if isinstance(v, torch.Tensor)]


def _read(flow: Flow, claim: Claim, node: fx.Node, value: fx.Node, reads: dict) -> None:
    found = flow.parameter(value)
    if found:
        claim.parameters = list(dict.fromkeys([*claim.parameters, found[0]]))
        reads[found[0]] = flow.bytes(found[0])
        return
    if value in targets.mutated(node) and targets.base_name(node) in ("copy_", "fill_", "zero_"):
        return
    if not targets.is_shape_arithmetic(value) and _is_tensor(value):
        reads.setdefault(value, flow.bytes(unexpanded(value)))


def unexpanded(value: fx.Node) -> fx.Node:
    """Back through views to what stands before the elements are repeated; the value itself where they are not."""
    node = value
    while node.op == "call_function" and targets.is_view(node) and node.all_input_nodes:
        if targets.base_name(node) in ("expand", "expand_as"):
            return node.all_input_nodes[0]
        node = node.all_input_nodes[0]
    return value


def by_source(
    flow: Flow, reads: dict[fx.Node, sympy.Expr]
) -> dict[fx.Node, dict[fx.Node, sympy.Expr]]:
    """The values read by the tensor that they are views of."""
    views: dict[fx.Node, dict[fx.Node, sympy.Expr]] = {}
    for value, size in reads.items():
        views.setdefault(flow.source(value), {})[value] = size
    return views


def _once(flow: Flow, reads: dict[fx.Node, sympy.Expr]) -> list[sympy.Expr]:
    """Bytes read of each tensor: the sum over its views, and never more than the whole of it."""
    views = {source: [*sizes.values()] for source, sizes in by_source(flow, reads).items()}
    sums = [(sympy.Add(*sizes), flow.bytes(source)) for source, sizes in views.items()]
    return [min(pair, key=_at_length) if pair[0] != pair[1] else pair[0] for pair in sums]


def _at_length(size: sympy.Expr) -> float:
    return evaluate(size, b=3, s=1000, p=5000)


def _written(node: fx.Node) -> fx.Node:
    if targets.base_name(node) == "copy_":
        return node.args[0]
    return node


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)
