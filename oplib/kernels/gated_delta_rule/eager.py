"""The rule token by token."""

from __future__ import annotations

import torch

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Eager(Variant):
    """One token after the other in torch operators: a few kernels for each. A state that is given is written over."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        q, k, v, beta, gate = per_head(inputs)
        state = inputs["state"]
        if state is None:
            state = v.new_zeros((v.shape[0], v.shape[2], k.shape[3], v.shape[3]))
        state = state.to(v.dtype)
        outputs = []
        for t in range(v.shape[1]):
            kept = gate[:, t].exp()
            state = state * (kept[..., None] if kept.dim() == 3 else kept[..., None, None])
            key = k[:, t, :, :, None]
            error = (v[:, t] - (state * key).sum(-2)) * beta[:, t, :, None]
            state = state + key * error[:, :, None]
            outputs.append((state * q[:, t, :, :, None]).sum(-2))
        y = torch.stack(outputs, 1).to(inputs["v"].dtype)
        if inputs["state"] is not None:
            return y, inputs["state"].copy_(state)
        return y, state.to(torch.float64 if v.dtype == torch.float64 else torch.float32)


def per_head(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """q, k, v, beta and gate in float32 (float64 where they come in it), keys of unit length and one per value head."""
    wide = torch.float64 if inputs["v"].dtype == torch.float64 else torch.float32
    q, k, v, beta, gate = (inputs[name].to(wide) for name in ("q", "k", "v", "beta", "gate"))
    times = v.shape[2] // k.shape[2]
    q, k = (
        (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)).repeat_interleave(times, 2)
        for x in (q, k)
    )
    return q * k.shape[-1] ** -0.5, k, v, beta, gate
