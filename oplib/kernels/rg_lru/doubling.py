"""The recurrence in as many rounds as the length has bits."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.kernels.step import wide
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Doubling(Variant):
    """Each round joins spans of twice the length, over all tokens at once: log2(s) rounds in torch operators."""

    preference = 5

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        return None if params["phase"] == "context" else "runs prompts, not single tokens"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        kind = wide(inputs["x"])
        y, decay = inputs["x"].to(kind), inputs["decay"].to(kind)
        span, s = 1, y.shape[1]
        while span < s:
            before = functional.pad(y[:, :-span], (0, 0, span, 0))
            y = torch.addcmul(y, decay, before)
            decay = decay * functional.pad(decay[:, :-span], (0, 0, span, 0))
            span *= 2
        return y.to(inputs["x"].dtype), y[:, -1]
