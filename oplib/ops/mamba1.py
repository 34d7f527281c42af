"""mamba1: the selective scan with one decay per channel and state element."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.kind import Dims
from oplib.params import ACTIVATION_DTYPE, PHASE, STATE_DTYPE, Param, Params, integer, text
from oplib.recurrence import Recurrence

_FLOAT32 = 4


class Mamba1(Recurrence):
    """The Mamba 1 selective scan: every channel and state element has its own decay.

    Computes:
        h[t] = exp(dt[t]·A) * h[t-1] + (dt[t]·x[t]) B[t]ᵀ and y[t] = h[t] C[t] + D * x[t], per channel. Convolution,
        gating, and the linear layers that give B, C and dt are ops of their own.
    Shapes:
        x, y, dt[b, s, d_inner], B, C[b, s, d_state], A[d_inner, d_state], state[b, d_inner, d_state]. dt_rank is the
        width of the layer before dt and only a key of the table. Keeps b and s apart: the state moves once per
        sequence and not per token.
    FLOPs:
        Per token, channel and state element: dt·A 1, (dt·x)·B 1, decay and update one multiply-add 2, readout one
        multiply-add 2: 6·b·s·d_inner·d_state, in both phases, since no form by matrix products exists. exp, dt·x and
        D·x are ignored; so is the extra work of a parallel scan.
    Bytes:
        x, dt, B, C read and y written at the activation width; A, D and the bias of dt in float32; state written, and
        in generation read. A state that a context continues from is ignored.
    Weights:
        A d_inner·d_state, D and the bias of dt 2·d_inner.
    Valid range:
        s at least 1.
    Error:
        No measured tables yet; bound only.
    Source:
        Gu and Dao, Mamba, arXiv:2312.00752v2, algorithm 2 and section 3.3: https://arxiv.org/abs/2312.00752v2
    """

    name: ClassVar[str] = "mamba1"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="d_inner", type=int, doc="channels of the scan"),
        Param(name="d_state", type=int, doc="state elements per channel"),
        Param(name="dt_rank", type=int, doc="width of the layer before dt"),
        ACTIVATION_DTYPE,
        STATE_DTYPE,
        PHASE,
    )

    def flops(self, params: Params, dims: Dims) -> Amount:
        state = integer(params, "d_inner") * integer(params, "d_state")
        return 6 * dims["b"] * dims["s"] * state

    def bytes(self, params: Params, dims: Dims) -> Amount:
        inner, n = integer(params, "d_inner"), integer(params, "d_state")
        activations = dims["s"] * (3 * inner + 2 * n) * storage_bytes(text(params, "dtype"))
        state = self.state_bytes(params, inner * n)
        return dims["b"] * (activations + state) + inner * (n + 2) * _FLOAT32

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }
