"""wkv: a weighted average over time with one decay per channel."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.kind import Dims
from oplib.params import ACTIVATION_DTYPE, PHASE, STATE_DTYPE, Param, Params, integer, text
from oplib.recurrence import Recurrence

_STATES = 3  # numerator, denominator, running maximum of the exponents
_FLOAT32 = 4


class Wkv(Recurrence):
    """The WKV recurrence: each channel averages its values with weights that decay over time.

    Computes:
        o[t] = (a[t-1] + e^(u + k[t])·v[t]) / (c[t-1] + e^(u + k[t])), a[t] = e^(-w)·a[t-1] + e^(k[t])·v[t] and
        c[t] = e^(-w)·c[t-1] + e^(k[t]), per channel; a running maximum keeps the exponents small. The layers that
        give k, v and the receptance, and the gate by the receptance, are ops of their own.
    Shapes:
        k, v, o[b, s, channels], decay w and bonus u[channels], state a, c and maximum[b, channels, 3]. Keeps b and s
        apart: the state moves once per sequence and not per token.
    FLOPs:
        Per token and channel: output numerator 3 (both terms are scaled, then added), denominator 2, quotient 1, new
        numerator 3, new denominator 2: 11·b·s·channels, in both phases, since no form by matrix products exists.
        exp, maxima and sums of exponents are ignored.
    Bytes:
        k and v read and o written at the activation width; w and u in float32; state written, and in generation read.
        A state that a context continues from is ignored.
    Weights:
        w and u: 2·channels.
    Valid range:
        s at least 1.
    Error:
        No measured tables yet; bound only.
    Source:
        Peng et al., RWKV, arXiv:2305.13048v2, section 3.1 and appendix D: https://arxiv.org/abs/2305.13048v2
    """

    name: ClassVar[str] = "wkv"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="channels", type=int, doc="channels, each with its own decay"),
        ACTIVATION_DTYPE,
        STATE_DTYPE,
        PHASE,
    )

    def flops(self, params: Params, dims: Dims) -> Amount:
        return 11 * dims["b"] * dims["s"] * integer(params, "channels")

    def bytes(self, params: Params, dims: Dims) -> Amount:
        channels = integer(params, "channels")
        activations = 3 * dims["s"] * channels * storage_bytes(text(params, "dtype"))
        state = self.state_bytes(params, _STATES * channels)
        return dims["b"] * (activations + state) + 2 * channels * _FLOAT32

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }
