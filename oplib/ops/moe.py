"""moe: routed experts."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, bytes_of_bits, power_of_ratio
from oplib.dtypes import quant_mode, weight_bytes
from oplib.errors import InvalidInputError
from oplib.kind import Dims, OpKind, Role
from oplib.params import GROUP_SIZE, QUANT_MODE, Param, Params, flag, integer, text

_ROUTE_BITS = 32 + 32  # one int32 expert id and one float32 weight per token and chosen expert


class Moe(OpKind):
    """The routed experts of a mixture: every token runs through top_k of num_experts small MLPs.

    Computes:
        y[t] = Σ over the chosen experts e of weight[t, e] · down_e(act(gate_e(x[t])) * up_e(x[t])), or
        down_e(act(up_e(x[t]))) where not gated. The selection, the permutation and the weighted sum are part of it;
        the router's linear layer is a gemm of its own, and so are shared experts.
    Shapes:
        m tokens of hidden_size, experts of intermediate_size. Varies with x = b*s.
    FLOPs:
        Each of the m·top_k (token, expert) pairs multiplies three hidden_size x intermediate_size matrices (gate, up,
        down), or two where not gated: 2·m·top_k·hidden_size·intermediate_size·(3 or 2). Activation, bias, selection
        and weighted sum are ignored, and so is padding of an expert's tokens to a tile.
    Bytes:
        Weights of the experts that any token chose. With k of E drawn evenly, one token leaves an expert out with
        probability 1 - k/E, m tokens with (1 - k/E)^m, so E·(1 - (1 - k/E)^m) experts are read in expectation.
        Plus input and output m·hidden_size, the m·top_k·intermediate_size values between the two products written
        and read once, and 8 bytes of routing per pair. That a skewed distribution touches fewer experts at small m
        is ignored here: the tables carry it.
    Weights:
        num_experts times the (3 or 2) matrices in the storage of the mode, plus biases.
    Valid range:
        top_k at most num_experts; m at least 1.
    Error:
        No measured tables yet; bound only.
    Source:
        Shazeer et al., arXiv:1701.06538v1, section 2: https://arxiv.org/abs/1701.06538v1; power-law loads:
        AIConfigurator, arXiv:2601.06288v1: https://arxiv.org/abs/2601.06288v1
    """

    name: ClassVar[str] = "moe"
    role: ClassVar[Role] = "moe"
    params: ClassVar[tuple[Param, ...]] = (
        Param(name="hidden_size", type=int, doc="features of a token"),
        Param(name="intermediate_size", type=int, doc="features inside one expert"),
        Param(name="num_experts", type=int, doc="routed experts"),
        Param(name="top_k", type=int, doc="experts per token"),
        Param(name="gated", type=bool, default=True, doc="an expert has a gate projection"),
        QUANT_MODE,
        GROUP_SIZE,
        Param(name="bias", type=bool, default=False, doc="expert projections have biases"),
        Param(
            name="distribution",
            type=str,
            default="balanced",
            doc="how tokens spread over the experts when measured",
            allowed=("balanced", "power_law_1.01", "power_law_1.2"),
        ),
    )
    dims: ClassVar[tuple[str, ...]] = ("m",)

    def check(self, params: Params) -> None:
        if integer(params, "top_k") > integer(params, "num_experts"):
            raise InvalidInputError(
                f"moe has top_k {params['top_k']} of {params['num_experts']} experts.",
                "top_k is at most num_experts.",
            )

    def flops(self, params: Params, dims: Dims) -> Amount:
        matrix = integer(params, "hidden_size") * integer(params, "intermediate_size")
        return 2 * dims["m"] * integer(params, "top_k") * matrix * _matrices(params)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        hidden, inner = integer(params, "hidden_size"), integer(params, "intermediate_size")
        experts, top_k = integer(params, "num_experts"), integer(params, "top_k")
        mode, m = quant_mode(text(params, "dtype")), dims["m"]
        untouched = power_of_ratio(experts - top_k, experts, m)
        between = top_k * inner * (mode.output_bits + mode.activation_bits)
        token_bits = hidden * (mode.activation_bits + mode.output_bits) + between
        activations = bytes_of_bits(m * (token_bits + top_k * _ROUTE_BITS))
        return expert_bytes(params) * experts * (1 - untouched) + activations

    def compute_dtype(self, params: Params) -> str:
        return quant_mode(text(params, "dtype")).compute_dtype

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {"m": tuple(2**i for i in range(15))}


def _matrices(params: Params) -> int:
    return 3 if flag(params, "gated") else 2


def expert_bytes(params: Params) -> int:
    """Weight bytes of one expert, scales and biases included."""
    hidden, inner = integer(params, "hidden_size"), integer(params, "intermediate_size")
    mode, inputs = quant_mode(text(params, "dtype")), _matrices(params) - 1
    biases = (inputs * inner + hidden) * mode.output_bits // 8 if flag(params, "bias") else 0
    group = integer(params, "group_size") or None
    inward = weight_bytes(mode.name, inner, hidden, group)
    outward = weight_bytes(mode.name, hidden, inner, group)
    return inputs * inward + outward + biases
