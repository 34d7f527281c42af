"""The scan in torch operators: chunks in a prompt, one step in generation."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params, integer


class Eager(Variant):
    """The chunked form of the Mamba 2 paper (section 6) in einsums, a loop over chunks; one recurrent step.

    The step writes its state over: an output that each call writes anew would stay in the cache, and its way back to
    memory would not be timed.
    """

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        x = inputs["x"]
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        dt = functional.softplus(inputs["dt"].to(wide) + inputs["dt_bias"].to(wide))
        decay = dt * inputs["A"].to(wide)
        drive = x.to(wide) * dt[..., None]
        per_group = x.shape[2] // inputs["B"].shape[2]
        b, c = (inputs[name].to(wide).repeat_interleave(per_group, 2) for name in ("B", "C"))
        if inputs["state"] is None:
            y, state = chunked(drive, decay, b, c, integer(params, "chunk_size"))
        else:
            y, state = stepped(drive, decay, b, c, inputs["state"].to(wide))
        y = (y + inputs["D"].to(wide)[:, None] * x.to(wide)).to(x.dtype)
        return y, state if inputs["state"] is None else inputs["state"].copy_(state)


def stepped(
    drive: torch.Tensor, decay: torch.Tensor, b: torch.Tensor, c: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last state, one token after the other."""
    outputs = []
    for t in range(drive.shape[1]):
        state = state * decay[:, t].exp()[..., None, None]
        state = state + drive[:, t][..., None] * b[:, t][:, :, None]
        outputs.append((state * c[:, t][:, :, None]).sum(-1))
    return torch.stack(outputs, 1), state


def chunked(
    drive: torch.Tensor, decay: torch.Tensor, b: torch.Tensor, c: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last state from an empty one, in chunks of `size` tokens (i, j tokens of a chunk, h heads)."""
    s = drive.shape[1]
    size = min(size, s)
    drive, decay, b, c = (_cut(values, size) for values in (drive, decay, b, c))
    total = decay.cumsum(2)
    between = (
        total[:, :, :, None] - total[:, :, None]
    )  # log of the decay from j to i: [b, chunk, i, j, h]
    lower = torch.ones(size, size, dtype=torch.bool, device=drive.device).tril()
    between = between.masked_fill(~lower[:, :, None], float("-inf")).exp()
    scores = torch.einsum("bgihn,bgjhn->bgijh", c, b) * between
    inside = torch.einsum("bgijh,bgjhp->bgihp", scores, drive)
    left = (total[:, :, -1:] - total).exp()
    grown = torch.einsum("bgjhn,bgjhp->bghpn", b, drive * left[..., None])
    whole = total[:, :, -1].exp()
    state, entering = torch.zeros_like(grown[:, 0]), []
    for g in range(grown.shape[1]):
        entering.append(state)
        state = state * whole[:, g][..., None, None] + grown[:, g]
    read = torch.einsum("bgihn,bghpn->bgihp", c, torch.stack(entering, 1))
    y = inside + read * total.exp()[..., None]
    return y.flatten(1, 2)[:, :s], state


def _cut(values: torch.Tensor, size: int) -> torch.Tensor:
    """[b, s, ...] as [b, chunks, size, ...], padded with zeros, which neither decay nor drive."""
    missing = -values.shape[1] % size
    padded = functional.pad(values, (0, 0) * (values.dim() - 2) + (0, missing))
    return padded.unflatten(1, (-1, size))
