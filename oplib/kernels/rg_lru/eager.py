"""The recurrence token by token."""

from __future__ import annotations

import torch

from oplib.kernels.step import walk, wide
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Eager(Variant):
    """One token after the other in torch operators: what transformers runs."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        kind = wide(inputs["x"])
        x, decay, state = inputs["x"].to(kind), inputs["decay"].to(kind), inputs["state"]
        start = x.new_zeros((x.shape[0], x.shape[2])) if state is None else state.to(kind)

        def token(state: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
            state = decay[:, t] * state + x[:, t]
            return state, state

        y, last = walk(token, start, x.shape[1])
        return y.to(inputs["x"].dtype), last if state is None else last.to(state.dtype)
