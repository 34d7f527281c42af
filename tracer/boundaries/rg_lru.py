"""The real-gated linear recurrent unit as one node. Shapes: B batch, S tokens, C channels."""

from __future__ import annotations

import torch

from . import define, replaces_method

_OP = define(
    "rg_lru(Tensor x, Tensor gate, Tensor reset, Tensor? state, ScalarType state_dtype) -> (Tensor, Tensor)",
    lambda x, gate, reset, state, state_dtype: (
        torch.empty_like(x),
        x.new_empty(x.shape[0], x.shape[2], dtype=state_dtype),
    ),
    split={"x": 2, "gate": 2, "state": 1, "out0": 2, "out1": 1},
)


@replaces_method("_rnn_scan", "hidden_states", "recurrent_gate", "reset", "recurrent_states")
def rnn_scan(
    _module, hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype=torch.float32
):
    """(B,S,C) x2, (1 or B,S,1), state (B,C) or None -> (B,S,C) and the state after the last token."""
    return _OP(hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype)
