"""The scan token by token."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.step import walk, wide
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Eager(Variant):
    """One token after the other in torch operators, as transformers runs it without other kernels."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        kind = wide(inputs["x"])
        x, b, c, a, d = (inputs[name].to(kind) for name in ("x", "B", "C", "A", "D"))
        dt = functional.softplus(inputs["dt"].to(kind) + inputs["dt_bias"].to(kind))
        state = inputs["state"]
        start = x.new_zeros((x.shape[0], *a.shape)) if state is None else state.to(kind)

        def token(state: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
            kept = state * (dt[:, t, :, None] * a).exp()
            state = kept + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
            return state, (state * c[:, t, None]).sum(-1)

        y, last = walk(token, start, x.shape[1])
        y = (y + d * x).to(inputs["x"].dtype)
        return y, last if state is None else last.to(state.dtype)
