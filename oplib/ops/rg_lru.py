"""rg_lru: a linear recurrence with one gated decay per channel."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.kind import Dims
from oplib.params import ACTIVATION_DTYPE, PHASE, STATE_DTYPE, Param, Params, integer, text
from oplib.recurrence import Recurrence


class RgLru(Recurrence):
    """The recurrence of the real-gated linear recurrent unit: each channel decays by a gate of its token.

    Computes:
        h[t] = a[t]·h[t-1] + x[t], per channel; a is 0 where a sequence starts. The layers that give the gates, the
        decay a out of them and the scaling of x by the input gate and √(1 - a²) are ops of their own.
    Shapes:
        x, a, h[b, s, channels], state[b, channels]. Keeps b and s apart: the state moves once per sequence and not
        per token.
    FLOPs:
        One multiply-add per token and channel: 2·b·s·channels, in both phases, since no form by matrix products
        exists. Resets are ignored; so is the extra work of a parallel scan.
    Bytes:
        x and a read and h written at the activation width; state written, and in generation read. A state that a
        context continues from is ignored.
    Weights:
        None; the parameters behind the gates belong to the ops that compute them.
    Valid range:
        s at least 1.
    Error:
        No measured tables yet; bound only.
    Source:
        De et al., Griffin, arXiv:2402.19427v1, section 2.4 and equation 4: https://arxiv.org/abs/2402.19427v1
    """

    name: ClassVar[str] = "rg_lru"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="channels", type=int, doc="channels, each with its own decay"),
        ACTIVATION_DTYPE,
        STATE_DTYPE,
        PHASE,
    )

    def flops(self, params: Params, dims: Dims) -> Amount:
        return 2 * dims["b"] * dims["s"] * integer(params, "channels")

    def bytes(self, params: Params, dims: Dims) -> Amount:
        channels = integer(params, "channels")
        activations = 3 * dims["s"] * channels * storage_bytes(text(params, "dtype"))
        state = self.state_bytes(params, channels)
        return dims["b"] * (activations + state)

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }
