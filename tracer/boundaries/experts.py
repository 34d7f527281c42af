"""Routed experts as one node, through transformers' experts registry."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from . import IMPLEMENTATION, adopts, define

_ARGUMENTS = ["hidden_states", "top_k_index", "top_k_weights"]


def _fake(hidden_states, *_args):
    """(tokens, hidden) -> (tokens, hidden)."""
    return torch.empty_like(hidden_states)


_OP = define(
    "experts(Tensor hidden_states, Tensor top_k_index, Tensor top_k_weights, Tensor[] weights, "
    "int num_experts, int intermediate_size, bool gated, bool bias) -> Tensor",
    _fake,
)


def experts(
    module: torch.nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    *_args,
    **_kwargs,
) -> torch.Tensor:
    """The experts function that the registry hands to the model: same arguments, one node.

    `down_proj` is (experts, hidden, intermediate), or (experts, intermediate, hidden) when stored transposed.
    """
    num_experts, rows, columns = module.down_proj.shape
    return _OP(
        hidden_states,
        top_k_index,
        top_k_weights,
        list(module.parameters()),
        num_experts,
        rows if module.is_transposed else columns,
        bool(module.has_gate),
        bool(module.has_bias),
    )


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts)


@adopts
def adopt_experts(model: torch.nn.Module) -> None:
    """Give experts that transformers has not put behind its registry the same choice of implementation.

    They are told by their form: stacked `down_proj` and `gate_up_proj` or `up_proj` parameters, and a forward
    that takes the hidden states, the chosen experts and their weights; or two or three matrices of one size, each with
    the rows of all experts, anywhere in a module with such a forward.
    """
    for module in model.modules():
        if _is_flat(module):
            module.forward = functools.partial(_dispatch_flat, module, model.config, module.forward)
            continue
        stacked = getattr(module, "down_proj", None)
        if (
            not isinstance(stacked, torch.nn.Parameter)
            or stacked.dim() != 3
            or hasattr(module, "is_transposed")
        ):
            continue
        if list(inspect.signature(type(module).forward).parameters)[1:4] != _ARGUMENTS:
            continue
        module.config = model.config
        module.has_gate = hasattr(module, "gate_up_proj")
        module.has_bias = any(
            name.endswith("bias") for name, _ in module.named_parameters(recurse=False)
        )
        module.has_post_expert_norm = module._is_expert_parallel = False
        module.is_concatenated = True
        if not hasattr(module, "num_experts"):
            module.num_experts = stacked.shape[0]
        first = module.gate_up_proj if module.has_gate else module.up_proj
        module.is_transposed = first.shape[1] not in (stacked.shape[2], 2 * stacked.shape[2])
        if not hasattr(module, "_apply_gate"):
            module._apply_gate = functools.partial(_apply_gate, module)
        module.forward = functools.partial(_dispatch, module, module.forward)


def _apply_gate(module: torch.nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    """(tokens, 2 intermediate) -> (tokens, intermediate): the first half gates the second."""
    gate, up = gate_up.chunk(2, dim=-1)
    return module.act_fn(gate) * up


def _dispatch(module: torch.nn.Module, original: Callable, *args, **kwargs) -> torch.Tensor:
    chosen = ALL_EXPERTS_FUNCTIONS.get_interface(module.config._experts_implementation, None)
    return chosen(module, *args, **kwargs) if chosen else original(*args, **kwargs)


def _is_flat(module: torch.nn.Module) -> bool:
    """Whether all its parameters are matrices of one shape, (experts * intermediate, hidden)."""
    experts = getattr(module, "num_experts", None)
    if not isinstance(experts, int):
        return False
    shapes = [tuple(p.shape) for p in module.parameters()]
    return (
        len(shapes) in (2, 3)
        and len(set(shapes)) == 1
        and len(shapes[0]) == 2
        and shapes[0][0] % experts == 0
        and list(inspect.signature(type(module).forward).parameters)[1:4] == _ARGUMENTS
    )


def _dispatch_flat(
    module: torch.nn.Module,
    config: Any,  # a config of transformers
    original: Callable,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    chosen = getattr(config, "_experts_implementation", None)
    matrices = list(module.parameters())
    experts, rows = module.num_experts, len(matrices[0]) // module.num_experts
    if chosen == IMPLEMENTATION:
        gated = len(matrices) == 3
        return _OP(hidden_states, top_k_index, top_k_weights, matrices, experts, rows, gated, False)
    if chosen == "batched_mm" and hidden_states.is_meta:
        return _products(hidden_states, top_k_index, [m.view(experts, rows, -1) for m in matrices])
    return original(hidden_states, top_k_index, top_k_weights)


def _products(
    hidden_states: torch.Tensor, top_k_index: torch.Tensor, matrices: list[torch.Tensor]
) -> torch.Tensor:
    """The products of each (token, expert) pair on sizes alone: what torch's counter is to see."""
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    pairs = tokens.repeat_interleave(top_k_index.shape[-1], dim=0)[:, :, None]
    *inward, outward = (m[top_k_index.flatten()] for m in matrices)
    inner, *_ = (torch.bmm(m, pairs) for m in inward)
    torch.bmm(outward.transpose(1, 2), inner)
    return torch.empty_like(hidden_states)
