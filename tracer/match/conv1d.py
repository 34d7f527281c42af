"""Convolutions over time that a model writes as such."""

from __future__ import annotations

from torch import fx

from tracer.match import matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow

_OPTIONS = {"stride": [1], "padding": [0], "dilation": [1], "groups": 1}


@matcher("conv1d", "aten.conv1d")
def conv1d(flow: Flow, node: fx.Node, _taken) -> Result:
    """x (B,C,L), weight (O, C/groups, K), padding or cached positions being part of x or added on both sides."""
    x, weight, *rest = node.args
    bias = rest[0] if rest else node.kwargs.get("bias")
    call = {**_OPTIONS, **node.kwargs, **dict(zip(_OPTIONS, rest[1:], strict=False))}
    found = [flow.parameter(p) for p in (weight, bias) if p is not None]
    if any(p is None for p in found):
        return Refusal(node=node, op="conv1d", reason="its filter is not a parameter")
    if set(call["stride"]) != {1}:
        return Refusal(node=node, op="conv1d", reason=f"its stride is {call['stride'][0]}, not 1")
    owned = [p for p in found if p is not None]
    batch, channels = flow.shape(x)[:2]
    out, _, taps = flow.shape(weight)
    return Claim(
        kind="conv1d",
        params={
            "in_channels": int(channels),
            "out_channels": int(out),
            "kernel_size": int(taps),
            "dilation": int(call["dilation"][0]),
            "groups": int(call["groups"]),
            "dtype": flow.dtype(x),
            "bias": bias is not None,
        },
        dims={"b": batch, "s": flow.shape(node)[2]},
        nodes=[*(n for _, chain in owned for n in chain), node],
        anchor=node,
        inputs=[x],
        parameters=[p for p, _ in owned],
        axes=dict.fromkeys(("in_channels", "out_channels", "groups"), (x, 1)),
    )
