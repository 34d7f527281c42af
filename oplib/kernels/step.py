"""A step of a recurrence, compiled, and the tokens of a prompt one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from oplib.kernels.compiled import Compiled
from oplib.kernels.variant import Needs, Sizes
from oplib.params import Params

Token: TypeAlias = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


class CompiledStep(Compiled):
    """The step of generation compiled: a subclass names the variant in `of`."""

    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        """The loop over the tokens of a prompt unrolls."""
        return None if params["phase"] == "generation" else "compiles the step of generation only"


def walk(token: Token, state: torch.Tensor, s: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of s tokens [b, s, ...] and the last state; `token` gives the next state and an output."""
    outputs = []
    for t in range(s):
        state, out = token(state, t)
        outputs.append(out)
    return torch.stack(outputs, 1), state


def wide(values: torch.Tensor) -> torch.dtype:
    """What a recurrence is computed in: float32, or float64 where it comes in it."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32
