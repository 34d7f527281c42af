"""Mamba 1 selective scan as one node. Shapes: B batch, C channels (d_inner), S tokens, N state size."""

from __future__ import annotations

import torch

from . import define, replaces


def _fake(x, dt, a, b, c, parameters, state):
    """The dtypes of the reference: a step keeps those of its input and state, a context pass widens both."""
    out_dtype, state_dtype = x.dtype, torch.float32
    if state is not None:
        state_dtype = state.dtype
    else:
        skip, gate, _ = parameters
        for factor in (skip, gate):
            out_dtype = (
                out_dtype if factor is None else torch.promote_types(out_dtype, factor.dtype)
            )
    new_state = x.new_empty(*x.shape[:2], a.shape[-1], dtype=state_dtype)
    return x.new_empty(x.shape, dtype=out_dtype), new_state


_OP = define(
    "mamba1_scan(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor?[] parameters, Tensor? state) "
    "-> (Tensor, Tensor)",
    _fake,
    split={"x": 1, "dt": 1, "A": 0, "parameters": 1, "state": 1, "out0": 1, "out1": 1},
)


@replaces("mamba_selective_scan")
def mamba_selective_scan(
    hidden_states, dt, A, B, C, D=None, z=None, delta_bias=None, return_last_state=False, **_kwargs
):
    """(B,C,S), (B,C,S), (C,N), (B,N,S) x2 -> (B,C,S) and the final state (B,C,N)."""
    out, state = _OP(hidden_states, dt, A, B, C, [D, z, delta_bias], None)
    return (out, state) if return_last_state else out


@replaces("mamba_selective_state_update")
def mamba_selective_state_update(
    state, hidden_states, dt, A, B, C, D=None, dt_bias=None, z=None, **_kwargs
):
    """(B,C), state (B,C,N) -> (B,C): one token; the state is updated in place."""
    out, new_state = _OP(hidden_states.unsqueeze(-1), dt, A, B, C, [D, z, dt_bias], state)
    state.copy_(new_state)
    return out.squeeze(-1)
