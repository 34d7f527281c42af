"""Mamba 2 scan as one node. Shapes: B batch, S tokens, H heads, P head dim, G groups, N state size."""

from __future__ import annotations

import torch

from . import define, replaces


def _fake(x, dt, a, b, c, parameters, state, chunk_size):
    """The dtypes of the reference: a step keeps those of its input and state, a context pass computes in float32."""
    batch, _, heads, head_dim = x.shape
    out_dtype, state_dtype = (
        (torch.float32, torch.float32) if chunk_size else (x.dtype, state.dtype)
    )
    new_state = x.new_empty(batch, heads, head_dim, b.shape[-1], dtype=state_dtype)
    return x.new_empty(x.shape, dtype=out_dtype), new_state


_OP = define(
    "mamba2_scan(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor?[] parameters, Tensor? state, "
    "int chunk_size) -> (Tensor, Tensor)",
    _fake,
    split={
        "x": 2,
        "dt": (2, 1),
        "A": 0,
        "B": 2,
        "C": 2,
        "parameters": 2,
        "state": 1,
        "out0": 2,
        "out1": 1,
    },
)


@replaces("mamba2_chunk_scan")
def mamba2_chunk_scan(
    hidden_states, dt, A, B, C, chunk_size, D=None, dt_bias=None, initial_states=None, return_final_states=False,
    z=None, **_kwargs,
):  # fmt: skip
    """(B,S,H,P), (B,S,H), (H), (B,S,G,N) x2 -> (B,S,H,P) and the final state (B,H,P,N)."""
    out, state = _OP(hidden_states, dt, A, B, C, [D, dt_bias, z], initial_states, chunk_size)
    return (out, state) if return_final_states else out


@replaces("mamba2_selective_state_update")
def mamba2_selective_state_update(
    state, hidden_states, dt, A, B, C, D=None, dt_bias=None, dt_softplus=False, z=None, **_kwargs
):
    """(B,H,P), state (B,H,P,N), (B,G,N) x2 -> (B,H,P): one token; the state is updated in place."""
    out, new_state = _OP(
        hidden_states.unsqueeze(1), dt, A, B.unsqueeze(1), C.unsqueeze(1), [D, dt_bias, z], state, 0
    )
    state.copy_(new_state)
    return out.squeeze(1)
