"""mlstm: linear attention with exponential gates and a normaliser."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.kind import Dims
from oplib.params import ACTIVATION_DTYPE, PHASE, STATE_DTYPE, Param, Params, integer, text
from oplib.recurrence import ChunkedRecurrence


class Mlstm(ChunkedRecurrence):
    """The matrix LSTM: a matrix memory per head with an input and a forget gate, read out over a normaliser.

    Computes:
        C[t] = f[t] C[t-1] + i[t] k[t] v[t]ᵀ, n[t] = f[t] n[t-1] + i[t] k[t] and
        h[t] = C[t]ᵀ q[t] / max(|n[t]ᵀ q[t]|, 1), per head; gates are exponential and a running maximum keeps their
        exponents small. Projections, norm and output gate are ops of their own.
    Shapes:
        q, k[b, s, H, K], v, h[b, s, H, V], gates i, f[b, s, H], state C[b, H, K, V], n[b, H, K], maximum[b, H];
        H = num_heads, K = head_k_dim, V = head_v_dim, Q = min(chunk_size, s). Keeps b and s apart: the state moves
        once per sequence and not per token.
    FLOPs:
        context, per sequence and head, the chunked form: q kᵀ within chunks 2·s·Q·K, its gated product with v
        2·s·Q·V, q times the entering C 2·s·K·V and n 2·s·K, and kᵀ v 2·s·K·V; plus the recurrence over chunks, one
        multiply-add per element of C: 2·⌈s/Q⌉·K·V. The square within a chunk counts whole; gates, the update of n,
        quotients and padding of the last chunk are ignored.
        generation, per token and element of C and n: decay 1, update 2, readout 2: 5·s·H·K·(V + 1).
    Bytes:
        q, k, v and both gates read and h written at the activation width; state written, and in generation read. A
        state that a context continues from is ignored, and so are chunk states that pass between kernels.
    Weights:
        None; the parameters behind the gates belong to the ops that compute them.
    Valid range:
        s at least 1.
    Error:
        No measured tables yet; bound only.
    Source:
        Beck et al., xLSTM, arXiv:2405.04517v2, section 2.3: https://arxiv.org/abs/2405.04517v2; Beck et al., Tiled
        Flash Linear Attention, arXiv:2503.14376v1, section 3: https://arxiv.org/abs/2503.14376v1
    """

    name: ClassVar[str] = "mlstm"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_heads", type=int, doc="heads, each with a memory"),
        Param(name="head_k_dim", type=int, doc="size of q and k"),
        Param(name="head_v_dim", type=int, doc="size of v"),
        Param(name="chunk_size", type=int, default=64, doc="tokens of a chunk"),
        ACTIVATION_DTYPE,
        STATE_DTYPE,
        PHASE,
    )

    def flops(self, params: Params, dims: Dims) -> Amount:
        heads, k, v = (integer(params, x) for x in ("num_heads", "head_k_dim", "head_v_dim"))
        b, s = dims["b"], dims["s"]
        if text(params, "phase") == "generation":
            return 5 * b * s * heads * k * (v + 1)
        chunk, chunks = self.chunks(params, s)
        products = s * chunk * (k + v) + 2 * s * k * v + s * k
        return 2 * b * heads * (products + chunks * k * v)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        heads, k, v = (integer(params, x) for x in ("num_heads", "head_k_dim", "head_v_dim"))
        per_token = 2 * heads * (k + v + 1) * storage_bytes(text(params, "dtype"))
        state = self.state_bytes(params, heads * (k * v + k + 1))
        return dims["b"] * (dims["s"] * per_token + state)

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }
