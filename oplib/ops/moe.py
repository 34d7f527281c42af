"""moe: routed experts."""

from __future__ import annotations

from typing import ClassVar

from oplib.arithmetic import Amount, bytes_of_bits
from oplib.dtypes import quant_mode, weight_bytes
from oplib.errors import InvalidInputError
from oplib.expert_loads import DISTRIBUTIONS, distinct_experts
from oplib.kind import Dims, OpKind, Role
from oplib.params import GROUP_SIZE, QUANT_MODE, Param, Params, flag, integer, text
from oplib.table_format import Array, Columns, Derived, TableFormat

_ROUTE_BITS = 32 + 32  # one int32 expert id and one float32 weight per token and chosen expert


# (experts, chosen) of the published models whose experts have no gate. TensorRT-LLM's rows say so in the kernel's name;
# those of vLLM 0.24 and of SGLang's FlashInfer run up to 1.4 times faster than the bytes of a gate allow.
_NOT_GATED = ((512, 22), (128, 6))
_ALWAYS_GATED = (
    "vllm_fused_moe",
    "sglang_fused_moe_triton",
)  # nothing shows that their rows of these shapes are not


class Moe(OpKind):
    """The routed experts of a mixture: every token runs through top_k of num_experts small MLPs.

    Computes:
        y[t] = Σ over the chosen experts e of weight[t, e] · down_e(act(gate_e(x[t])) * up_e(x[t])), or
        down_e(act(up_e(x[t]))) where not gated. The selection, the permutation and the weighted sum are part of it;
        the router's linear layer is a gemm of its own, and so are shared experts.
    Shapes:
        m tokens of hidden_size, experts of intermediate_size. Varies with x = b*s. With expert parallelism m counts the
        tokens of all ep_size GPUs, num_experts and top_k are the model's, and this GPU holds num_experts/ep_size
        experts and runs the pairs that fall on them. With tensor parallelism intermediate_size is what this GPU holds
        of each expert.
    FLOPs:
        Each of the m·top_k (token, expert) pairs multiplies three hidden_size x intermediate_size matrices (gate, up,
        down), or two where not gated: 2·m·top_k/ep_size·hidden_size·intermediate_size·(3 or 2). Activation, bias,
        selection and weighted sum are ignored, and so are padding of an expert's tokens to a tile and that one GPU of a
        skewed distribution gets more pairs than the others: this is the mean of the GPUs.
    Bytes:
        Weights of the experts that any token chose, in expectation (`oplib.expert_loads`): balanced means drawn evenly,
        so one token leaves an expert out with probability 1 - k/E, m tokens with (1 - k/E)^m, and
        E·(1 - (1 - k/E)^m) experts are read; a power law has its own popularity of each. A GPU reads its share of
        them, 1/ep_size. Plus input and output, hidden_size per token with any expert here, a share
        1 - (1 - 1/ep_size)^k of m; the intermediate_size values between the two products of each pair here, written and
        read once; and 8 bytes of routing per pair. Tokens without an expert here are ignored.
    Weights:
        num_experts times the (3 or 2) matrices in the storage of the mode, plus biases.
    Valid range:
        top_k at most num_experts; m at least 1.
    Error:
        Published rows below the bound read fewer experts than their distribution says. TensorRT-LLM's
        moe_torch_flow_min_latency (nvfp4, B200 and GB200): with 8 experts and 2 chosen, 4 balanced tokens and 16
        skewed ones (power_law_1.2) take the time of 2.1 experts' weights, scales included, at full bandwidth, where 5.5
        and 7.2 are drawn in expectation: the tokens chose the same two. `balanced` with 256 experts and 8 chosen, where
        the router limits groups: 60 % of the experts. Small experts on an L40S or an RTX PRO 6000 stay in the cache.
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
        Param(name="ep_size", type=int, default=1, doc="GPUs that the experts are divided over"),
        Param(name="gated", type=bool, default=True, doc="an expert has a gate projection"),
        QUANT_MODE,
        GROUP_SIZE,
        Param(name="bias", type=bool, default=False, doc="expert projections have biases"),
        Param(
            name="distribution",
            type=str,
            default="balanced",
            doc="how tokens spread over the experts when measured",
            allowed=DISTRIBUTIONS,
        ),
    )
    dims: ClassVar[tuple[str, ...]] = ("m",)
    coordinates: ClassVar[tuple[str, ...]] = (
        "m",
        "hidden_size",
        "intermediate_size",
        "num_experts",
        "top_k",
        "ep_size",
    )
    immaterial: ClassVar[tuple[str, ...]] = ("bias", "group_size")

    @property
    def table_format(self) -> TableFormat:
        """A published row is one GPU of moe_tp_size·moe_ep_size: it is given the num_tokens of all, holds
        inter_size/moe_tp_size of num_experts/moe_ep_size experts and, in a skewed distribution, is the one with most
        pairs. Its `balanced` deals the experts out in turn, so that min(E, m·k) of them are read, up to 1.6 times what
        is expected here. Whether experts have a gate is no column: see `_NOT_GATED`."""
        return TableFormat(
            stem="moe_perf",
            columns={
                "m": "num_tokens",
                "top_k": "topk",
                "ep_size": "moe_ep_size",
                "dtype": "moe_dtype",
            },
            spellings={"dtype": {"w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "w4a8_mxfp4"}},
            derived={
                "intermediate_size": Derived(
                    columns=("inter_size", "moe_tp_size"),
                    read=lambda raw: raw.numbers("inter_size") // raw.numbers("moe_tp_size"),
                    write=_whole_experts,
                ),
                "gated": Derived(
                    columns=("kernel_source", "gated", "num_experts", "topk"),
                    read=_gated,
                    write=lambda values: {"gated": values.each("gated", bool)},
                ),
            },
        )

    def check(self, params: Params) -> None:
        experts = integer(params, "num_experts")
        if integer(params, "top_k") > experts:
            raise InvalidInputError(
                f"moe has top_k {params['top_k']} of {experts} experts.",
                "top_k is at most num_experts.",
            )
        if experts % integer(params, "ep_size"):
            raise InvalidInputError(
                f"moe has {experts} experts on {params['ep_size']} GPUs.",
                "Every GPU has the same whole number of experts.",
            )

    def flops(self, params: Params, dims: Dims) -> Amount:
        matrix = integer(params, "hidden_size") * integer(params, "intermediate_size")
        pairs = dims["m"] * integer(params, "top_k")
        return _share(2 * pairs * matrix * _matrices(params), params)

    def bytes(self, params: Params, dims: Dims) -> Amount:
        hidden, inner = integer(params, "hidden_size"), integer(params, "intermediate_size")
        experts, top_k = integer(params, "num_experts"), integer(params, "top_k")
        mode, m = quant_mode(text(params, "dtype")), dims["m"]
        read = distinct_experts(text(params, "distribution"), experts, top_k, m)
        pair_bits = top_k * (inner * (mode.output_bits + mode.activation_bits) + _ROUTE_BITS)
        token_bits = hidden * (mode.activation_bits + mode.output_bits)
        activations = bytes_of_bits(
            m * (_tokens_here(token_bits, params) + _share(pair_bits, params))
        )
        return _share(expert_bytes(params) * read, params) + activations

    def compute_dtype(self, params: Params) -> str:
        return quant_mode(text(params, "dtype")).compute_dtype

    def grid(self) -> dict[str, tuple[int, ...]]:
        return {"m": tuple(2**i for i in range(15))}

    def between(self) -> dict[str, tuple[int, ...]]:
        return {"m": (24, 48, 96, 192, 384, 768, 1000, 1536, 3072, 4000, 6144)}


def _share(whole: Amount, params: Params) -> Amount:
    """What falls on one of the GPUs that the experts are divided over, in the mean."""
    gpus = integer(params, "ep_size")
    return whole if gpus == 1 else whole / gpus


def _tokens_here(whole: Amount, params: Params) -> Amount:
    """The part of something of every token that belongs to tokens with an expert on this GPU."""
    gpus = integer(params, "ep_size")
    return whole if gpus == 1 else whole * (1 - (1 - 1 / gpus) ** integer(params, "top_k"))


def _gated(raw: Columns) -> Array:
    if "gated" in raw:
        return raw.each("gated", bool)
    plain = raw.each("kernel_source", lambda text: text not in _ALWAYS_GATED)
    experts, top_k = raw.numbers("num_experts"), raw.numbers("topk")
    shape = sum(((experts == e) & (top_k == k) for e, k in _NOT_GATED), start=False)
    return raw.each("kernel_source", lambda text: "nongated" not in text) & ~(plain & shape)


def _whole_experts(values: Columns) -> dict[str, Array]:
    """Experts that are not cut: the size that this GPU holds is all of it."""
    sizes = values.numbers("intermediate_size")
    return {"inter_size": sizes, "moe_tp_size": sizes // sizes}


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
