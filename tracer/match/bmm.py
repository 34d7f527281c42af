"""Products of two activations, and of activations with a stack of matrices that is one parameter."""

from __future__ import annotations

import sympy
from torch import fx

from tracer.match import matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow, Role
from tracer.match.gemm import weight_form
from tracer.match.targets import full_name


@matcher("bmm", "aten.matmul", "aten.bmm", "aten.baddbmm", "aten.mm")
def bmm(flow: Flow, node: fx.Node, _taken) -> Result:
    """`matmul` and `bmm` with (..., m, k) x (..., k, n)."""
    if weight_form(flow, node) is not None:
        return None  # a linear layer
    a, b = node.args[1:3] if full_name(node) == "aten.baddbmm" else node.args[:2]
    left, right = flow.shape(a), flow.shape(b)
    if len(left) < 2 or len(right) < 2:
        return Refusal(
            node=node, op="bmm", reason=f"factors of {len(left)} and {len(right)} dimensions"
        )
    m, k, n = left[-2], left[-1], right[-1]
    batch = sympy.Mul(*flow.shape(node)[:-2])
    if flow.role[a] is Role.PARAMETER and flow.role[b] is not Role.PARAMETER:
        a, b, m, n, right = b, a, n, m, left  # what is read with the data stands second
    if flow.role[b] is Role.PARAMETER:  # one matrix for all rows, or one per entry of its own batch
        own = sympy.Mul(*right[:-2])
        batch, m = own, m * batch / own
    claim = _claim(flow, node, a, b, batch, m, n, k)
    if full_name(node) == "aten.baddbmm" and (bias := flow.parameter(node.args[0])):
        claim.parameters.append(bias[0])
        claim.nodes = [*bias[1], *claim.nodes]
    return claim


@matcher("einsum", "aten.einsum")
def einsum(flow: Flow, node: fx.Node, _taken) -> Result:
    """Two factors: shared letters of the result are the batch, letters that vanish are k."""
    equation, operands = node.args[0], node.args[1]
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(operands) != 2 or "." in equation or not result:
        return Refusal(
            node=node,
            op="bmm",
            reason=f"the equation {equation!r} is not a product of two named factors",
        )
    size = {
        c: d
        for term, x in zip(letters, operands, strict=True)
        for c, d in zip(term, flow.shape(x), strict=True)
    }
    first, second = (set(t) for t in letters)
    summed = (first | second) - set(result)
    if not summed <= (first & second):
        return Refusal(
            node=node, op="bmm", reason=f"the equation {equation!r} sums over one factor alone"
        )
    if not summed:
        return None
    shared = first & second & set(result)
    dims = [
        sympy.Mul(*(size[c] for c in group))
        for group in (shared, first - second, second - first, summed)
    ]
    return _claim(flow, node, operands[0], operands[1], *dims)


def _claim(flow: Flow, node: fx.Node, a: fx.Node, b: fx.Node, batch, m, n, k) -> Claim:
    parameters, extra = [], []
    for factor in (a, b):
        if found := flow.parameter(factor):
            parameters.append(found[0])
            extra += [c for c in found[1] if len(flow.users[c]) == 1]
    sizes = {"n": n, "k": k}
    fixed = {name: int(size) for name, size in sizes.items() if size.is_Integer}
    return Claim(
        kind="bmm",
        params={
            **fixed,
            "dtype": flow.dtype(parameters[0] if parameters else b),
            "shared_b": bool(parameters),
        },
        dims={
            "batch": batch,
            "m": m,
            **{name: size for name, size in sizes.items() if name not in fixed},
        },
        nodes=[*extra, node],
        anchor=node,
        inputs=[x for x in (a, b) if flow.parameter(x) is None],
        parameters=parameters,
    )
