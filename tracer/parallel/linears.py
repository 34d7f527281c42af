"""The products of a trace that a split can begin at: linear layers, and products with stacks of matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import fx

from tracer.match import targets
from tracer.match.flow import Flow
from tracer.match.gemm import weight_form
from tracer.parallel.rules import shape

Place = tuple[str, int]  # a module, and which of its products


def is_linear(flow: Flow, node: fx.Node) -> bool:
    return (
        targets.base_name(node) in ("linear", "addmm", "mm", "matmul")
        and weight_form(flow, node) is not None
    )


def places(linears: Sequence[fx.Node], module: Callable[[fx.Node], str]) -> dict[fx.Node, Place]:
    """Which linear layer of which module each is: the same in every phase."""
    seen: Counter[str] = Counter()
    found = {}
    for node in linears:
        path = module(node)
        found[node] = (path, seen[path])
        seen[path] += 1
    return found


def feature_axis(flow: Flow, node: fx.Node) -> int:
    """Along which axis a linear layer has its output features: the last but one where the weight comes first."""
    form = weight_form(flow, node)
    assert form is not None, node
    first = targets.base_name(node) in ("matmul", "mm") and form[1] < form[0]
    return len(shape(node)) - (2 if first else 1)


def is_stack(flow: Flow, node: fx.Node) -> bool:
    """Whether a node multiplies by one matrix for each entry of its batch, all of them one parameter."""
    if targets.base_name(node) not in ("bmm", "matmul") or len(node.args) < 2:
        return False
    weight = node.args[1]
    return (
        isinstance(weight, fx.Node)
        and flow.parameter(weight) is not None
        and weight.meta["val"].dim() == node.meta["val"].dim() == 3
    )
