"""Products of two activations, and of activations with a stack of matrices that is one parameter."""

from __future__ import annotations

import sympy
from torch import fx

from tracer.match import matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow, Role
from tracer.match.gemm import weight_form
from tracer.match.targets import full_name

#: Operators that add their first argument to the product of the next two.
_ADDING = ("aten.addmm", "aten.baddbmm")


@matcher("bmm", "aten.matmul", "aten.bmm", "aten.mm", "aten.linear", *_ADDING)
def bmm(flow: Flow, node: fx.Node, _taken) -> Result:
    """Products of (..., m, k) with (..., k, n), and of `linear` with a weight that the pass computes."""
    if weight_form(flow, node) is not None:
        return None  # a linear layer
    a, b = node.args[1:3] if full_name(node) in _ADDING else node.args[:2]
    left, right = flow.shape(a), flow.shape(b)
    if full_name(node) == "aten.linear":
        right = right[::-1]
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
    elif len(right) == 2:
        batch, m = sympy.Integer(1), m * batch
    claim = _claim(flow, node, a, b, batch, m, n, k)
    added = node.args[0] if full_name(node) in _ADDING else _bias(node)
    if added is not None and (bias := flow.parameter(added)):
        claim.parameters.append(bias[0])
        claim.nodes = [*bias[1], *claim.nodes]
    return claim


def _bias(node: fx.Node) -> fx.Node | None:
    """What `linear` adds, where it adds something."""
    if full_name(node) != "aten.linear":
        return None
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")


@matcher("einsum", "aten.einsum")
def einsum(flow: Flow, node: fx.Node, _taken) -> Result:
    """Two factors: shared letters of the result are the batch, letters that vanish are k."""
    equation, operands = node.args[0], node.args[1]
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(operands) != 2 or not result:
        return Refusal(
            node=node,
            op="bmm",
            reason=f"the equation {equation!r} is not a product of two factors with a result",
        )
    shapes = [flow.shape(x) for x in operands]
    letters = [_named(term, len(shape)) for term, shape in zip(letters, shapes, strict=True)]
    result = _named(result, len(flow.shape(node)))
    size: dict[str, sympy.Expr] = {}
    for term, shape in zip(letters, shapes, strict=True):
        size |= {c: d for c, d in zip(term, shape, strict=True) if size.get(c, 1) == 1}
    letters = [
        "".join(c for c, d in zip(term, shape, strict=True) if d == size[c])
        for term, shape in zip(letters, shapes, strict=True)
    ]
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


def _named(term: str, ndim: int) -> str:
    """A term of an equation with a digit for each dimension behind its dots, counted from the right."""
    dots = ndim - len(term.replace("...", ""))
    return term.replace("...", "".join(str(i) for i in reversed(range(dots))))


def _claim(flow: Flow, node: fx.Node, a: fx.Node, b: fx.Node, batch, m, n, k) -> Claim:
    parameters, extra = [], []
    for factor in (a, b):
        if found := flow.owned(factor):
            parameters.append(found[0])
            extra += found[1]
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
