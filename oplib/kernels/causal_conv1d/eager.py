"""torch's depthwise convolution."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params

ACTIVATIONS = {"": lambda y: y, "silu": functional.silu, "swish": functional.silu}


class Eager(Variant):
    """State and input joined, torch's depthwise conv1d (one token: a weighted sum), activation, next state."""

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        known = params["activation"] in ACTIVATIONS
        return None if known else f"knows no activation {params['activation']!r}"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        x, w, bias = inputs["x"], inputs["w"], inputs["bias"]
        channels, taps = w.shape
        whole = torch.cat([inputs["state"], x], -1)
        if x.shape[-1] == 1:
            y = (whole * w).sum(-1, keepdim=True)
            y = y if bias is None else y + bias[:, None]
        else:
            y = functional.conv1d(whole, w[:, None], bias, groups=channels)
        state = whole[..., whole.shape[-1] - taps + 1 :].contiguous()
        return ACTIVATIONS[str(params["activation"])](y), state
