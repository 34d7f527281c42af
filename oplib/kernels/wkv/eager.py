"""The average token by token."""

from __future__ import annotations

import torch

from oplib.kernels.step import walk, wide
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params

_LOWEST = -1e38  # the maximum of no exponents


class Eager(Variant):
    """One token after the other in torch operators: what transformers runs without its own kernel."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        kind = wide(inputs["k"])
        k, v = inputs["k"].to(kind), inputs["v"].to(kind)
        decay, bonus, state = inputs["decay"].to(kind), inputs["bonus"].to(kind), inputs["state"]
        if state is None:
            start = k.new_zeros((k.shape[0], k.shape[2], 3))
            start[..., 2] = _LOWEST
        else:
            start = state.to(kind)

        def token(state: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
            above, below, highest = state.unbind(-1)
            key, value = k[:, t], v[:, t]
            top = torch.maximum(highest, bonus + key)
            old, new = (highest - top).exp(), (bonus + key - top).exp()
            out = (old * above + new * value) / (old * below + new)
            top = torch.maximum(highest - decay, key)
            old, new = (highest - decay - top).exp(), (key - top).exp()
            return torch.stack([old * above + new * value, old * below + new, top], -1), out

        y, last = walk(token, start, k.shape[1])
        return y.to(inputs["k"].dtype), last if state is None else last.to(state.dtype)
