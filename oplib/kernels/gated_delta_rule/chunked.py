"""The rule in chunks."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.gated_delta_rule.eager import per_head
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, integer


class Chunked(Variant):
    """The chunked (WY) form in torch operators, a loop over chunks: what transformers runs without other kernels."""

    preference = 5

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if params["gate"] != "scalar":
            return "takes one decay per head, not one per channel"
        return None if params["phase"] == "context" else "runs prompts, not single tokens"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        values = per_head(inputs)
        s = values[0].shape[1]
        size = min(integer(params, "chunk_size"), s)
        q, k, v, beta, gate = (_cut(x, size) for x in values)  # [b, h, chunk, token, ...]
        total = gate.cumsum(-1)
        lower = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
        between = (total[..., :, None] - total[..., None, :]).masked_fill(~lower, -torch.inf).exp()
        forward = k * beta[..., None]
        one = torch.eye(size, dtype=q.dtype, device=q.device)
        mixed = one + (forward @ k.transpose(-1, -2) * between).tril(-1)
        known = torch.cat([v * beta[..., None], forward * total.exp()[..., None]], -1)
        u, w = torch.linalg.solve_triangular(mixed, known, upper=False, unitriangular=True).split(
            [v.shape[-1], k.shape[-1]], -1
        )
        scores, reads = q @ k.transpose(-1, -2) * between, q * total.exp()[..., None]
        left = k * (total[..., -1:] - total).exp()[..., None]
        state = v.new_zeros((*v.shape[:2], k.shape[-1], v.shape[-1]))
        outputs = []
        for g in range(q.shape[2]):
            new = u[:, :, g] - w[:, :, g] @ state
            outputs.append(reads[:, :, g] @ state + scores[:, :, g] @ new)
            state = (
                state * total[:, :, g, -1, None, None].exp() + left[:, :, g].transpose(-1, -2) @ new
            )
        y = torch.cat(outputs, 2)[:, :, :s].transpose(1, 2)
        return y.to(inputs["v"].dtype), state


def _cut(values: torch.Tensor, size: int) -> torch.Tensor:
    """[b, s, h, ...] as [b, h, chunks, size, ...], padded with zeros, which neither decay nor write."""
    missing = -values.shape[1] % size
    padded = functional.pad(values, (0, 0) * (values.dim() - 2) + (0, missing))
    return padded.transpose(1, 2).unflatten(2, (-1, size))
