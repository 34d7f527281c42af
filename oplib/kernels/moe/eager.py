"""Experts one after the other."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.gemm import BLOCK
from oplib.kernels.gemm.eager import widened
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, flag, integer


class Eager(Variant):
    """A loop over the experts. It asks for each one's tokens on the host, so no CUDA graph holds it.

    As the reference of fp8 it rounds tokens as a kernel does and widens both operands, which is no way to run them.
    """

    capturable = False
    experts = "eager"  # in transformers' registry

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        return unshared(params)

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        x = inputs["x"]
        weights, chosen = route(inputs["logits"], integer(params, "top_k"))
        out = torch.zeros_like(x)
        for expert in range(integer(params, "num_experts")):
            token, place = torch.where(chosen == expert)
            if not token.numel():
                continue
            biases = [
                None if b is None else b[expert] for b in (inputs["up_bias"], inputs["down_bias"])
            ]
            inner = _linear(x[token], "up", inputs, expert, biases[0])
            active = activate(inner, flag(params, "gated"))
            one = _linear(active, "down", inputs, expert, biases[1])
            out.index_add_(0, token, one * weights[token, place, None].to(x.dtype))
        return (out,)


def _linear(
    x: torch.Tensor, name: str, inputs: Inputs, expert: int, bias: torch.Tensor | None
) -> torch.Tensor:
    weight = inputs[name][expert]
    if f"{name}_scale" not in inputs:
        return functional.linear(x, weight, bias)
    scale = inputs[f"{name}_scale"][expert]
    rounds = x.dtype != torch.float64  # which is the truth
    if scale.dim() == 2:
        x = widened(*by_block(x)) if rounds else x
        return functional.linear(x, widened(weight, scale), bias)
    if rounds:
        rounded, of_x = by_row(x)
        x = rounded.to(x.dtype) * of_x[:, None].to(x.dtype)
    return functional.linear(x, weight.to(x.dtype) * scale[:, None].to(x.dtype), bias)


def by_row(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in fp8, and the float32 scale of each, by which its largest value becomes the largest there is."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = x.abs().amax(-1).to(torch.float32).clamp(min=1e-12) / largest
    return (x.to(torch.float32) / scale[:, None]).to(torch.float8_e4m3fn), scale


def by_block(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `by_row`, with a scale per 128 of a row: [rows, k/128]."""
    rounded, scale = by_row(x.reshape(-1, BLOCK))
    return rounded.view(x.shape), scale.view(x.shape[0], -1)


def unshared(params: Params) -> str | None:
    """Why a kernel that holds all experts does not do this op."""
    return "holds all experts of the model" if params.get("ep_size", 1) != 1 else None


def route(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of the experts of each token, which sum to 1, and which experts they are."""
    weights, chosen = torch.topk(torch.softmax(logits, -1), top_k, -1)
    return weights / weights.sum(-1, keepdim=True), chosen


def activate(inner: torch.Tensor, gated: bool) -> torch.Tensor:
    """SiLU of the gate times the other half, or squared ReLU where there is no gate."""
    if not gated:
        return torch.relu(inner).square()
    gate, up = inner.chunk(2, -1)
    return functional.silu(gate) * up
