"""gated_delta_rule: linear attention that corrects its memory."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, exact_div
from oplib.dtypes import storage_bytes
from oplib.errors import InvalidInputError
from oplib.kind import Dims
from oplib.params import ACTIVATION_DTYPE, PHASE, STATE_DTYPE, Param, Params, integer, text
from oplib.recurrence import ChunkedRecurrence
from oplib.table_format import Array, Columns, Derived, TableFormat

_FLOAT32 = 4


class GatedDeltaRule(ChunkedRecurrence):
    """The gated delta rule: linear attention whose state forgets by a gate and is corrected by each token.

    Computes:
        S[t] = G[t] S[t-1] + beta[t] · k[t] (v[t] - (G[t] S[t-1])ᵀ k[t])ᵀ and o[t] = S[t]ᵀ q[t], per value head; G is
        one scalar per head (gate scalar: gated DeltaNet) or one per key channel (gate channel: Kimi delta attention).
        Convolution, output norm and gate are ops of their own.
    Shapes:
        q, k[b, s, num_k_heads, K], v, o[b, s, H, V], beta[b, s, H], gate[b, s, H] or [b, s, H, K], state[b, H, K, V];
        H = num_v_heads, K = head_k_dim, V = head_v_dim, Q = min(chunk_size, s). Keeps b and s apart: the state moves
        once per sequence and not per token.
    FLOPs:
        context, per sequence and value head, the chunked (WY) form: products of Q x Q with K: k kᵀ, q kᵀ, T k, and
        with V: T v, (q kᵀ) u, so 2·s·Q·(3·K + 2·V); products with the state: w S, q S, kᵀ u, so 6·s·K·V; the inverse
        T of a unit triangular Q x Q matrix by substitution, Q(Q-1)(Q-2)/6 multiply-adds in each of ⌈s/Q⌉ chunks.
        Squares within a chunk count whole; decays, gates and padding of the last chunk are ignored.
        generation, per token and state element: decay 1, kᵀS 2, correction 2, readout 2: 7·s·H·K·V.
    Bytes:
        q, k, v, beta read and o written at the activation width, gate read in float32; state written, and in
        generation read. A state that a context continues from is ignored, and so are w, u and chunk states that pass
        between the kernels of the chunked form.
    Weights:
        None; the parameters behind gate and beta belong to the ops that compute them.
    Valid range:
        num_v_heads a multiple of num_k_heads.
    Error:
        Of estimates between rows, by table: docs/interpolation.md. Small rows below the bound found bytes in the cache.
    Source:
        Yang et al., Gated DeltaNet, arXiv:2412.06464v3, section 3.3: https://arxiv.org/abs/2412.06464v3; Yang et al.,
        DeltaNet, arXiv:2406.06484v6, section 3.2: https://arxiv.org/abs/2406.06484v6; Kimi Linear,
        arXiv:2510.26692v2: https://arxiv.org/abs/2510.26692v2
    """

    name: ClassVar[str] = "gated_delta_rule"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="num_k_heads", type=int, doc="heads of q and k"),
        Param(name="num_v_heads", type=int, doc="heads of v, each with a state"),
        Param(name="head_k_dim", type=int, doc="size of q and k"),
        Param(name="head_v_dim", type=int, doc="size of v"),
        Param(name="chunk_size", type=int, default=64, doc="tokens of a chunk"),
        Param(
            name="gate",
            type=str,
            default="scalar",
            doc="one decay per head, or one per key channel",
            allowed=("scalar", "channel"),
        ),
        ACTIVATION_DTYPE,
        STATE_DTYPE,
        PHASE,
    )

    coordinates: ClassVar[tuple[str, ...]] = ("b", "s", "num_k_heads", "num_v_heads")
    immaterial: ClassVar[tuple[str, ...]] = ("state_dtype", "chunk_size")

    @property
    def table_formats(self) -> tuple[TableFormat, ...]:
        """Our own, and the published rows of GDN and KDA that are the rule alone. Kernels that fuse the convolution or
        the gate into it, and the rows of speculative decoding, are no op of this kind."""
        return (
            self.table_format,
            _published(
                "gdn_perf",
                "scalar",
                ("chunk_gated_delta_rule*", "fused_recurrent_gated_delta_rule*"),
            ),
            _published(
                "kda_perf", "channel", ("chunk_kda", "flashkda_fwd", "fused_recurrent_kda*")
            ),
        )

    def check(self, params: Params) -> None:
        if integer(params, "num_v_heads") % integer(params, "num_k_heads"):
            raise InvalidInputError(
                f"gated_delta_rule has {params['num_v_heads']} value heads over "
                f"{params['num_k_heads']} key heads.",
                "Each key head serves the same whole number of value heads.",
            )

    def flops(self, params: Params, dims: Dims) -> Amount:
        heads, k, v = (integer(params, x) for x in ("num_v_heads", "head_k_dim", "head_v_dim"))
        b, s = dims["b"], dims["s"]
        if text(params, "phase") == "generation":
            return 7 * b * s * heads * k * v
        q, chunks = self.chunks(params, s)
        inverse = exact_div(q * (q - 1) * (q - 2), 3)
        products = 2 * s * q * (3 * k + 2 * v) + 6 * s * k * v
        return b * heads * (products + chunks * inverse)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        heads, k, v = (integer(params, x) for x in ("num_v_heads", "head_k_dim", "head_v_dim"))
        width = storage_bytes(text(params, "dtype"))
        gates = heads * (k if text(params, "gate") == "channel" else 1)
        elements = 2 * integer(params, "num_k_heads") * k + 2 * heads * v + heads
        state = self.state_bytes(params, heads * k * v)
        return dims["b"] * (dims["s"] * (elements * width + gates * _FLOAT32) + state)

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"s": (1000, 3000, 4096)}


def _published(stem: str, gate: str, kernels: tuple[str, ...]) -> TableFormat:
    return TableFormat(
        stem=stem,
        columns={"b": "batch_size", "s": "seq_len"},
        derived={"state_dtype": Derived(columns=("kernel_source",), read=_state_dtype)},
        absent={"gate": gate, "dtype": "bfloat16"},
        rows={"kernel_source": kernels, "phase": ("context", "generation")},
    )


def _state_dtype(raw: Columns) -> Array:
    """TensorRT-LLM's recurrent kernel keeps 16 bits: with 32 its rows would move 5.3 TB/s on an H200 of 4.8."""
    return raw.each(
        "kernel_source",
        lambda text: "bfloat16" if text == "fused_recurrent_gated_delta_rule" else "float32",
    )
