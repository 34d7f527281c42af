"""conv1d: a convolution over time that mixes channels within groups."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.errors import InvalidInputError
from oplib.kind import Dims, OpKind, Role
from oplib.params import ACTIVATION_DTYPE, Param, Params, flag, integer, text


class Conv1d(OpKind):
    """A convolution over time, written as a convolution and not as a short causal kernel with a state.

    Computes:
        y[b, t, o] = bias[o] + Σ over j < kernel_size and the channels i of o's group of w[o, i, j] · x[b, t +
        dilation·j, i]. What stands before the first token, padding or cached positions, is part of x. With
        groups = channels it is depthwise.
    Shapes:
        x[b, s + dilation·(kernel_size - 1), in_channels], y[b, s, out_channels], w[out_channels, in_channels/groups,
        kernel_size]; s counts the positions computed, those included that the code cuts off afterwards. Keeps b and s
        apart: the positions in front of the first one are read once per sequence and not per token.
    FLOPs:
        kernel_size·in_channels/groups multiply-adds per output: 2·b·s·out_channels·kernel_size·in_channels/groups.
        The bias is ignored.
    Bytes:
        x read, padding included, y written, weight and bias read. Rereads by overlapping filters are ignored.
    Weights:
        out_channels·kernel_size·in_channels/groups, plus out_channels with bias.
    Valid range:
        Stride 1; in_channels and out_channels multiples of groups.
    Error:
        No measured tables yet; bound only.
    Source:
        PyTorch 2.13 documentation, torch.nn.Conv1d:
        https://docs.pytorch.org/docs/2.13/generated/torch.nn.Conv1d.html
    """

    name: ClassVar[str] = "conv1d"
    role: ClassVar[Role] = "compute"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="in_channels", type=int, doc="channels read"),
        Param(name="out_channels", type=int, doc="channels made"),
        Param(name="kernel_size", type=int, doc="positions that a filter reads"),
        Param(name="dilation", type=int, default=1, doc="distance between these positions"),
        Param(name="groups", type=int, default=1, doc="groups of channels that do not mix"),
        ACTIVATION_DTYPE,
        Param(name="bias", type=bool, default=False, doc="a bias per channel is added"),
    )
    dims: ClassVar[tuple[str, ...]] = ("b", "s")

    def check(self, params: Params) -> None:
        groups = integer(params, "groups")
        if integer(params, "in_channels") % groups or integer(params, "out_channels") % groups:
            raise InvalidInputError(
                f"conv1d has {params['in_channels']} and {params['out_channels']} channels in {groups} groups.",
                "Every group has the same whole number of channels.",
            )

    def filters(self, params: Params) -> int:
        """Elements of the weight."""
        inside = integer(params, "in_channels") // integer(params, "groups")
        return integer(params, "out_channels") * inside * integer(params, "kernel_size")

    def flops(self, params: Params, dims: Dims) -> Amount:
        return 2 * dims["b"] * dims["s"] * self.filters(params)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        out = integer(params, "out_channels")
        front = integer(params, "dilation") * (integer(params, "kernel_size") - 1)
        s = dims["s"]
        activations = dims["b"] * ((s + front) * integer(params, "in_channels") + s * out)
        weights = self.filters(params) + out * flag(params, "bias")
        return (activations + weights) * storage_bytes(text(params, "dtype"))

    def compute_dtype(self, params: Params) -> str:
        return text(params, "dtype")

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {
            "b": (1, 2, 4, 8, 16, 32, 64, 128, 256),
            "s": (1, 128, 512, 2048, 8192),
        }
