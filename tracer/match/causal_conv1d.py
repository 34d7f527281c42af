"""Short causal depthwise convolution."""

from __future__ import annotations

from torch import fx

from tracer.match import matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow


@matcher("causal_conv1d", "trace_model.causal_conv1d")
def causal_conv1d(flow: Flow, node: fx.Node, _taken) -> Result:
    """The boundary; cached positions that stand in front of the new tokens are the state, not work."""
    x, weight, bias, _, activation = node.args
    batch, channels, length = flow.shape(x)
    found = flow.parameter(weight)
    if found is None:
        return Refusal(node=node, op="causal_conv1d", reason="the filter is not a parameter")
    owned = [found]
    if bias is not None and (offset := flow.parameter(bias)):
        owned.append(offset)
    constant, new = length.as_coeff_Add()
    return Claim(
        kind="causal_conv1d",
        params={
            "channels": int(channels),
            "kernel_size": int(flow.shape(weight)[-1]),
            "dtype": flow.dtype(x),
            "bias": bias is not None,
            "activation": activation,
        },
        dims={"b": batch, "s": new if new != 0 else constant},
        nodes=[*(c for _, chain in owned for c in chain), node],
        anchor=node,
        inputs=[x],
        parameters=[p for p, _ in owned],
        axes={"channels": (x, 1)},
    )
