"""mamba2: the selective scan with one decay per head."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.errors import InvalidInputError
from oplib.kind import Dims
from oplib.params import ACTIVATION_DTYPE, PHASE, STATE_DTYPE, Param, Params, integer, text
from oplib.recurrence import ChunkedRecurrence
from oplib.table_format import Derived, TableFormat

_FLOAT32 = 4


class Mamba2(ChunkedRecurrence):
    """The Mamba 2 scan (state space duality): one scalar decay per head and token.

    Computes:
        h[t] = exp(dt[t]·A)·h[t-1] + dt[t]·x[t] B[t]ᵀ and y[t] = h[t] C[t] + D·x[t], per head. Convolution, gating and
        norm are ops of their own.
    Shapes:
        x, y[b, s, H, P], B, C[b, s, G, N], dt[b, s, H], state[b, H, P, N]; H = num_heads, P = head_dim,
        G = n_groups, N = d_state, Q = min(chunk_size, s). d_inner = H·P. Keeps b and s apart: the state moves once
        per sequence and not per token.
    FLOPs:
        context, per sequence, the four products of the chunked form: C Bᵀ within chunks 2·s·Q·N·G, its masked product
        with x 2·s·Q·P·H, chunk states Bᵀx 2·s·N·P·H, and C times the entering state 2·s·N·P·H; plus the recurrence
        over chunks, one multiply-add per state element: 2·⌈s/Q⌉·H·P·N. The square within a chunk counts whole, as
        kernels compute it; padding of the last chunk is ignored.
        generation, per token and state element: decay 1, update multiply-add 2, readout multiply-add 2: 5·s·H·P·N.
        exp, softplus, dt·x and D·x are ignored.
    Bytes:
        x, B, C, dt read and y written at the activation width; A, D and the bias of dt 3·H float32; state written,
        and in generation read. A state that a context continues from is ignored, and so are chunk states that pass
        between the kernels of the chunked form.
    Weights:
        A, D, bias of dt: 3·H.
    Valid range:
        d_inner = num_heads·head_dim, num_heads a multiple of n_groups.
    Error:
        Of estimates between our rows, on one kind of GPU: docs/measuring.md. The published tables of Mamba 2,
        of TensorRT-LLM on eight systems, have rows of its convolution alone.
    Source:
        Dao and Gu, Mamba-2, arXiv:2405.21060v1, section 6: https://arxiv.org/abs/2405.21060v1
    """

    name: ClassVar[str] = "mamba2"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="d_inner", type=int, doc="channels of the scan"),
        Param(name="d_state", type=int, doc="state elements per channel"),
        Param(name="num_heads", type=int, doc="heads, each with one decay"),
        Param(name="head_dim", type=int, doc="channels of a head"),
        Param(name="n_groups", type=int, doc="groups of heads that share B and C"),
        Param(name="chunk_size", type=int, doc="tokens of a chunk"),
        ACTIVATION_DTYPE,
        STATE_DTYPE,
        PHASE,
    )

    coordinates: ClassVar[tuple[str, ...]] = ("b", "s", "d_inner", "num_heads", "n_groups")
    immaterial: ClassVar[tuple[str, ...]] = ("state_dtype",)

    @property
    def table_formats(self) -> tuple[TableFormat, ...]:
        """Our own, and the published table of Mamba 2, should it get rows of the scan."""
        published = TableFormat(
            stem="mamba2_perf",
            columns={"b": "batch_size", "s": "seq_len", "num_heads": "nheads"},
            derived={
                "d_inner": Derived(
                    columns=("nheads", "head_dim"),
                    read=lambda raw: raw.numbers("nheads") * raw.numbers("head_dim"),
                )
            },
            absent={"dtype": "bfloat16", "state_dtype": "float32"},
            rows={
                "kernel_source": ("*scan*", "*state_update*"),
                "phase": ("context", "generation"),
            },
        )
        return self.table_format, published

    @property
    def table_format(self) -> TableFormat:
        return TableFormat(stem="mamba2_scan_perf")

    def check(self, params: Params) -> None:
        heads, size = integer(params, "num_heads"), integer(params, "head_dim")
        if integer(params, "d_inner") != heads * size:
            raise InvalidInputError(
                f"mamba2 has d_inner {params['d_inner']}, num_heads {heads}, head_dim {size}.",
                f"d_inner is num_heads * head_dim = {heads * size}.",
            )
        if heads % integer(params, "n_groups"):
            raise InvalidInputError(
                f"mamba2 has {heads} heads in {params['n_groups']} groups.",
                "Every group has the same whole number of heads.",
            )

    def flops(self, params: Params, dims: Dims) -> Amount:
        b, s, n = dims["b"], dims["s"], integer(params, "d_state")
        state = integer(params, "d_inner") * n
        if text(params, "phase") == "generation":
            return 5 * b * s * state
        chunk, chunks = self.chunks(params, s)
        square = n * integer(params, "n_groups") + integer(params, "d_inner")
        return 2 * b * (s * chunk * square + 2 * s * state + chunks * state)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        inner, n, heads = (integer(params, x) for x in ("d_inner", "d_state", "num_heads"))
        per_token = 2 * inner + 2 * integer(params, "n_groups") * n + heads
        state = self.state_bytes(params, inner * n)
        activations = dims["s"] * per_token * storage_bytes(text(params, "dtype"))
        return dims["b"] * (activations + state) + 3 * heads * _FLOAT32

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"s": (1000, 3000, 4096)}
