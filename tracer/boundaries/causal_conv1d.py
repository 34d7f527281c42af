"""Short causal depthwise convolution as one node. Shapes: B batch, C channels, L positions, K kernel size."""

from __future__ import annotations

import torch

from . import define, replaces

_OP = define(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor? state, str activation) -> Tensor",
    lambda x, weight, bias, state, activation: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
    split={"x": 1, "weight": 0, "bias": 0, "state": 1, "out0": 1},
)


@replaces("causal_conv1d_fn")
def causal_conv1d_fn(hidden_states, weight, bias=None, activation=None, **_kwargs):
    """(B,C,L), (C,K) -> (B,C,L): all positions of a context pass."""
    return _OP(hidden_states, weight, bias, None, activation or "")


@replaces("causal_conv1d_update")
def causal_conv1d_update(hidden_states, conv_state, weight, bias=None, activation=None, **_kwargs):
    """(B,C,L), state (B,C,K): the new positions of a decode step; the kernel shifts the state in place."""
    return _OP(hidden_states, weight, bias, conv_state, activation or "")
