"""linear_attention: attention without a softmax, with a fixed decay per head."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.kind import Dims
from oplib.params import ACTIVATION_DTYPE, PHASE, STATE_DTYPE, Param, Params, integer, text
from oplib.recurrence import ChunkedRecurrence


class LinearAttention(ChunkedRecurrence):
    """Linear attention whose state decays by a constant of its head at every token.

    Computes:
        S[t] = λ S[t-1] + k[t] v[t]ᵀ and o[t] = S[t]ᵀ q[t], per head, λ a constant of the head. Projections, norm and
        output gate are ops of their own.
    Shapes:
        q, k[b, s, H, K], v, o[b, s, H, V], state[b, H, K, V]; H = num_heads, K = head_k_dim, V = head_v_dim,
        Q = min(chunk_size, s). Keeps b and s apart: the state moves once per sequence and not per token.
    FLOPs:
        context, per sequence and head, the chunked form: q kᵀ within chunks 2·s·Q·K, its masked product with v
        2·s·Q·V, q times the entering state 2·s·K·V, and kᵀ v 2·s·K·V; plus the recurrence over chunks, one
        multiply-add per state element: 2·⌈s/Q⌉·K·V. The square within a chunk counts whole; decays of q, k and scores
        and padding of the last chunk are ignored.
        generation, per token and state element: decay 1, update 2, readout 2: 5·s·H·K·V.
    Bytes:
        q, k, v read and o written at the activation width; state written, and in generation read. A state that a
        context continues from is ignored, and so are the decays and chunk states that pass between kernels.
    Weights:
        None.
    Valid range:
        s at least 1.
    Error:
        No measured tables yet; bound only.
    Source:
        Qin et al., Lightning Attention-2, arXiv:2401.04658v1, algorithm 1: https://arxiv.org/abs/2401.04658v1;
        MiniMax-01, arXiv:2501.08313v1, section 2.2: https://arxiv.org/abs/2501.08313v1
    """

    name: ClassVar[str] = "linear_attention"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="heads, each with a decay and a state"),
        Param(name="head_k_dim", type=int, doc="size of q and k"),
        Param(name="head_v_dim", type=int, doc="size of v"),
        Param(name="chunk_size", type=int, default=256, doc="tokens of a chunk"),
        ACTIVATION_DTYPE,
        STATE_DTYPE,
        PHASE,
    )

    def flops(self, params: Params, dims: Dims) -> Amount:
        heads, k, v = (integer(params, x) for x in ("num_heads", "head_k_dim", "head_v_dim"))
        b, s = dims["b"], dims["s"]
        if text(params, "phase") == "generation":
            return 5 * b * s * heads * k * v
        chunk, chunks = self.chunks(params, s)
        return 2 * b * heads * (s * chunk * (k + v) + 2 * s * k * v + chunks * k * v)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        heads, k, v = (integer(params, x) for x in ("num_heads", "head_k_dim", "head_v_dim"))
        per_token = 2 * heads * (k + v) * storage_bytes(text(params, "dtype"))
        state = self.state_bytes(params, heads * k * v)
        return dims["b"] * (dims["s"] * per_token + state)

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }
