"""Linear attention in torch operators: chunks in a prompt, one step in generation."""

from __future__ import annotations

import torch

from oplib.kernels.step import wide
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, integer


class Eager(Variant):
    """Matrix products within chunks and a loop over them, the form that transformers runs; one recurrent step."""

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        kind, state = wide(inputs["q"]), inputs["state"]
        q, k, v = (inputs[name].to(kind).transpose(1, 2) for name in ("q", "k", "v"))
        decay = inputs["decay"].to(kind)[:, None, None]
        if state is None:
            y, last = chunked(q, k, v, decay, integer(params, "chunk_size"))
        else:
            last = state.to(kind) * decay.exp() + k.transpose(2, 3) * v
            y, last = q @ last, last.to(state.dtype)
        return y.transpose(1, 2).to(inputs["q"].dtype), last


def chunked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, decay: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last state of q, k[b, h, s, K], v[b, h, s, V] from an empty one, decay[h, 1, 1], in chunks."""
    s = q.shape[2]
    size = min(size, s)
    place = torch.arange(size, device=q.device, dtype=q.dtype)
    apart = place[:, None] - place
    between = (decay * apart).masked_fill(apart < 0, -torch.inf).exp()
    entering = (decay * (place[:, None] + 1)).exp()
    state = q.new_zeros((*q.shape[:2], k.shape[3], v.shape[3]))
    outputs = []
    for start in range(0, s, size):
        count = min(size, s - start)
        one, key, value = (x[:, :, start : start + count] for x in (q, k, v))
        inside = (one @ key.transpose(2, 3) * between[:, :count, :count]) @ value
        outputs.append(inside + one @ state * entering[:, :count])
        leaving = (decay * (count - 1 - place[:count, None])).exp()
        state = state * (decay * count).exp() + (key * leaving).transpose(2, 3) @ value
    return torch.cat(outputs, 2), state
