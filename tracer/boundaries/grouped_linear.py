"""One projection of every expert, over rows sorted by expert, as one node."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from . import IMPLEMENTATION, adopts, define

_ARGUMENTS = ["inputs", "expert_size"]
_OP = define(
    "grouped_linear(Tensor inputs, Tensor weight) -> Tensor",
    lambda inputs, weight: inputs.new_empty(inputs.shape[0], weight.shape[1]),
)


@adopts
def adopt_projections(model: torch.nn.Module) -> None:
    """Give modules that split rows by a list of lengths, one per expert, the model's choice of implementation.

    They are told by their form: `weight` (experts, out, in) alone, and a forward that takes rows and lengths.
    """
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() != 3 or len(list(module.parameters())) != 1:
            continue
        if list(inspect.signature(type(module).forward).parameters)[1:] == _ARGUMENTS:
            module.forward = functools.partial(_dispatch, module, model.config, module.forward)


def _dispatch(
    module: torch.nn.Module,
    config: Any,  # a config of transformers
    original: Callable,
    inputs: torch.Tensor,
    expert_size: list[int],
) -> torch.Tensor:
    """(rows, in) -> (rows, out). To torch's counter each row is a product with one of the matrices."""
    chosen = getattr(config, "_experts_implementation", None)
    if chosen == IMPLEMENTATION:
        return _OP(inputs, module.weight)
    if chosen == "batched_mm" and inputs.is_meta:
        return torch.nn.functional.linear(inputs, module.weight[0])
    return original(inputs, expert_size)
