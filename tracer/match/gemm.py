"""Linear layers: a product of token data with one two-dimensional parameter."""

from __future__ import annotations

from torch import fx

from tracer.match import matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow, Role
from tracer.match.targets import CASTS, base_name, full_name

#: Operator -> (position of the input, of the weight, of the bias, whether the weight is stored (n, k)).
_FORMS = {
    "aten.linear": ((0, 1, 2, True),),
    "aten.matmul": ((0, 1, None, False), (1, 0, None, True)),
    "aten.mm": ((0, 1, None, False), (1, 0, None, True)),
    "aten.addmm": ((1, 2, 0, False),),
}


@matcher("gemm", *_FORMS)
def gemm(flow: Flow, node: fx.Node, _taken) -> Result:
    """`linear`, and `matmul`, `mm`, `addmm` of data with a parameter of two dimensions on either side."""
    form = weight_form(flow, node)
    if form is None:
        return Refusal(node=node, op="gemm", reason="no factor is a parameter of two dimensions")
    x_at, w_at, bias_at, transposed = form
    x, weight = node.args[x_at], node.args[w_at]
    parameter, chain = flow.owned(weight) or (weight, [])
    shape = flow.shape(weight)
    n, k = (int(s) for s in (shape if transposed else reversed(shape)))
    x, widened = _unwidened(flow, x)
    bias = (
        node.args[bias_at]
        if bias_at is not None and len(node.args) > bias_at
        else node.kwargs.get("bias")
    )
    parameters, extra = [parameter], [*widened, *chain]
    if isinstance(bias, fx.Node) and (owned := flow.owned(bias)):
        parameters.append(owned[0])
        extra += owned[1]
    return Claim(
        kind="gemm",
        params={"n": n, "k": k, "dtype": flow.dtype(parameter), "bias": isinstance(bias, fx.Node)},
        dims={"m": flow.numel(x) / k},
        nodes=[*extra, node],
        anchor=node,
        inputs=[x],
        parameters=parameters,
    )


def weight_form(flow: Flow, node: fx.Node) -> tuple[int, int, int | None, bool] | None:
    """How a product uses its weight; None unless one factor is a parameter of two dimensions and the other is not."""
    for form in _FORMS.get(full_name(node), ()):
        x, weight = node.args[form[0]], node.args[form[1]]
        if flow.parameter(weight) is None or len(flow.shape(weight)) != 2:
            continue
        if flow.role[x] is not Role.PARAMETER:
            return form
    return None


def _unwidened(flow: Flow, x: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """Back through a cast to float32 that only this product reads: it is part of how the product reads its input."""
    if (
        x.op == "call_function"
        and base_name(x) in CASTS
        and flow.dtype(x) == "float32"
        and len(flow.users[x]) == 1
    ):
        return x.args[0], [x]
    return x, []
