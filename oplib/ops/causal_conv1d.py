"""causal_conv1d: a short depthwise convolution over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.kind import Dims, OpKind, Role
from oplib.params import ACTIVATION_DTYPE, Param, Params, flag, integer, text
from oplib.table_format import Array, Columns, Derived, TableFormat


class CausalConv1d(OpKind):
    """A short depthwise causal convolution over time, with its activation.

    Computes:
        y[b, t, c] = act(bias[c] + Σ over j < kernel_size of w[c, j] · x[b, t - j, c]); positions before the first
        new token come from the state.
    Shapes:
        x, y[b, s, channels], w[channels, kernel_size], state[b, channels, kernel_size - 1]. Keeps b and s apart: the
        state is read and written once per sequence and not per token.
    FLOPs:
        kernel_size multiply-adds per output: 2·b·s·channels·kernel_size. Bias and activation are ignored.
    Bytes:
        x read, y written, state read and written, weight and bias read. The state counts kernel_size - 1 columns, all
        that later tokens need; code that keeps kernel_size columns moves one more. That a state is
        zero and need not be read at the start of a prompt is ignored.
    Weights:
        channels·kernel_size, plus channels with bias.
    Valid range:
        s at least 1, kernel_size at least 1.
    Error:
        Published rows below the bound are not of this op: those of TensorRT-LLM's gdn_perf on every system, and of
        SGLang's on an A100, take as long for 64 value heads as for 16 (0.99 to 1.00 times in the median), so they ran
        fewer channels than q, k and v have. At 2,048 channels, the width of the keys in each, they reach 0.65 TB/s of
        an L40S's 0.86 and 3.3 of an H200's 4.8, as the other backends' do. Small rows of an L40S and an RTX PRO 6000
        are faster because their tensors stay in 96 or 128 MB of cache.
    Source:
        Gu and Dao, Mamba, arXiv:2312.00752v2, section 3.4: https://arxiv.org/abs/2312.00752v2; causal-conv1d v1.5.0:
        https://github.com/Dao-AILab/causal-conv1d/tree/v1.5.0
    """

    name: ClassVar[str] = "causal_conv1d"
    role: ClassVar[Role] = "memory"
    counted: ClassVar[bool] = False
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="channels", type=int, doc="channels, each with its own filter"),
        Param(name="kernel_size", type=int, doc="positions a filter spans"),
        ACTIVATION_DTYPE,
        Param(name="bias", type=bool, default=False, doc="a bias per channel is added"),
        Param(name="activation", type=str, default="", doc="function of the result; empty: none"),
    )
    dims: ClassVar[tuple[str, ...]] = ("b", "s")
    coordinates: ClassVar[tuple[str, ...]] = ("b", "s", "channels")
    immaterial: ClassVar[tuple[str, ...]] = ("bias", "activation")

    @property
    def table_formats(self) -> tuple[TableFormat, ...]:
        """Our own, and the convolution rows of the published tables of linear attention: over q, k and v together, or
        over x, B and C, where the models measured have a bias. A row of KDA's context is three launches, one for
        each."""
        return (
            self.table_format,
            _published(
                "gdn_perf", ("num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim"), _qkv
            ),
            _published(
                "kda_perf", ("num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim"), _qkv
            ),
            _published(
                "mamba2_perf", ("nheads", "head_dim", "n_groups", "d_state"), _xbc, bias=True
            ),
        )

    def flops(self, params: Params, dims: Dims) -> Amount:
        filters = integer(params, "channels") * integer(params, "kernel_size")
        return 2 * dims["b"] * dims["s"] * filters

    def bytes(self, params: Params, dims: Dims) -> Amount:
        channels, taps = integer(params, "channels"), integer(params, "kernel_size")
        per_sequence = 2 * dims["s"] * channels + 2 * channels * (taps - 1)
        weights = channels * (taps + flag(params, "bias"))
        return (dims["b"] * per_sequence + weights) * storage_bytes(text(params, "dtype"))

    def compute_dtype(self, params: Params) -> str:  # noqa: ARG002 - runs on the vector units
        return "float32"

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"s": (1000, 3000, 4096)}


def _published(
    stem: str, columns: tuple[str, ...], channels: Callable[[Columns], Array], *, bias: bool = False
) -> TableFormat:
    return TableFormat(
        stem=stem,
        columns={"b": "batch_size", "s": "seq_len", "kernel_size": "d_conv"},
        derived={"channels": Derived(columns=columns, read=channels)},
        absent={"dtype": "bfloat16", "bias": bias},
        rows={"kernel_source": ("causal_conv1d_*",)},
    )


def _qkv(raw: Columns) -> Array:
    keys = raw.numbers("num_k_heads") * raw.numbers("head_k_dim")
    return 2 * keys + raw.numbers("num_v_heads") * raw.numbers("head_v_dim")


def _xbc(raw: Columns) -> Array:
    groups = raw.numbers("n_groups") * raw.numbers("d_state")
    return raw.numbers("nheads") * raw.numbers("head_dim") + 2 * groups
