"""Routed experts over weights that were not touched lately, selection and weighted sum included.

Inputs: x[m, hidden], logits[m, experts] of the router, up[experts, (2 or 1)·inner, hidden] with the gate in front where
there is one, down[experts, hidden, inner], and up_bias, down_bias or None. Logits are such that the experts of a token
are drawn without replacement, all alike (balanced) or by popularities of a power law (`oplib.ops.moe`). Weights beside
biases lie in memory with the features of the input first, as in the models that have biases (gpt-oss). In fp8 weights
are stored in it, with a float32 scale per row of each expert's matrices, up_scale[experts, (2 or 1)·inner] and
down_scale[experts, hidden], or in fp8_block per 128 x 128 of them, up_scale[experts, (2 or 1)·inner/128, hidden/128]
and down_scale[experts, hidden/128, inner/128]. Tokens come in bfloat16: rounding them is part of the op.
"""

from __future__ import annotations

import torch

from oplib.kernels.binding import Binding
from oplib.kernels.gemm import BLOCK
from oplib.kernels.source import Source
from oplib.kernels.variant import DTYPES, Inputs, Sizes, Variant
from oplib.params import Params, flag, integer, text

_SIZES = {
    "hidden_size": 64, "intermediate_size": 40, "num_experts": 12, "top_k": 3, "dtype": "bfloat16",
}  # fmt: skip
_BLOCKS = {**_SIZES, "hidden_size": 384, "intermediate_size": 256, "dtype": "fp8_block"}
_LEAST, _NOT_CHOSEN = 1e-9, -60.0  # a weight that counts, and the logit of an expert without one
EXAMPLES = (
    (_SIZES, {"m": 37}),
    (_SIZES, {"m": 1}),
    ({**_SIZES, "gated": False, "distribution": "power_law_1.2"}, {"m": 19}),
    ({**_SIZES, "bias": True}, {"m": 21}),
    ({**_SIZES, "intermediate_size": 48, "dtype": "fp8"}, {"m": 37}),
    (_BLOCKS, {"m": 37}),
    ({**_BLOCKS, "gated": False, "num_experts": 3}, {"m": 300}),
)


def inputs(params: Params, dims: Sizes, source: Source) -> Inputs:
    """Tokens, logits and weights."""
    m, mode = dims["m"], text(params, "dtype")
    quantised = mode in ("fp8", "fp8_block")
    stored = DTYPES["fp8" if quantised else mode]
    dtype = DTYPES["bfloat16"] if quantised else stored
    hidden, inner = integer(params, "hidden_size"), integer(params, "intermediate_size")
    experts = integer(params, "num_experts")
    wide = 2 * inner if flag(params, "gated") else inner
    biased = flag(params, "bias")
    turned = biased and not quantised
    scales: Inputs = {}
    if quantised:
        block = BLOCK if mode == "fp8_block" else 0
        for name, out, inward in (("up", wide, hidden), ("down", hidden, inner)):
            shape = (experts, out // block, inward // block) if block else (experts, out)
            scales[f"{name}_scale"] = source.uniform(shape, 0.01, 0.03, torch.float32)
    return {
        **scales,
        "x": source.activation((m, hidden), dtype),
        "logits": _logits(
            text(params, "distribution"), m, integer(params, "top_k"), experts, source
        ),
        "up": _matrices((experts, wide, hidden), stored, source, turned=turned),
        "down": _matrices((experts, hidden, inner), stored, source, turned=turned),
        "up_bias": source.weight((experts, wide), dtype) if biased else None,
        "down_bias": source.weight((experts, hidden), dtype) if biased else None,
    }


def _matrices(
    shape: tuple[int, int, int], dtype: torch.dtype, source: Source, *, turned: bool
) -> torch.Tensor:
    experts, out, inward = shape
    if turned:
        return source.weight((experts, inward, out), dtype).transpose(1, 2)
    return source.weight(shape, dtype)


def _logits(distribution: str, m: int, top_k: int, experts: int, source: Source) -> torch.Tensor:
    """Gumbel noise makes the largest top_k a draw without replacement; popularities move it.

    The power law has density w^-a between two limits: 0.01 and 2 while there are fewer pairs than experts, else 1 and
    0.8·m, as AIConfigurator draws them (arXiv:2601.06288v1).
    """
    noise = source.uniform((m, experts), 1e-9, 1.0, torch.float32)
    gumbel = -torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))
    if distribution == "balanced":
        return gumbel
    a = float(distribution.rpartition("_")[2])
    ratio = 200.0 if m * top_k <= experts else max(0.8 * m, 1.001)
    place = source.uniform((experts,), 0.0, 1.0, torch.float32)
    popularity = (1 + place * (ratio ** (1 - a) - 1)) ** (1 / (1 - a))
    return gumbel + popularity.log()


def bind(variant: Variant) -> Binding:
    """The experts of transformers that run the same kernels; each variant's file names them."""
    name = getattr(variant, "experts", "")  # a plugin's variant may have none
    return Binding(experts=name, noted=_noted)


def _noted(
    module: torch.nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> tuple[Params, Sizes, Inputs]:  # fmt: skip
    """From a call of a model's experts: the tokens, and logits that the slot chooses the same experts by.

    Softmax and the division by the sum give the router's weights back, up to a factor that all of a token have.
    """
    m, hidden = hidden_states.shape
    experts = next(
        w.shape[0] for w in module.parameters() if w.dim() == 3
    )  # of all experts together
    logits = torch.full((m, experts), _NOT_CHOSEN, device=hidden_states.device)
    logits.scatter_(1, top_k_index, top_k_weights.float().clamp(min=_LEAST).log())
    told = {"hidden_size": hidden, "num_experts": experts, "top_k": top_k_index.shape[1]}
    return told, {"m": m}, {"x": hidden_states.clone(), "logits": logits}
