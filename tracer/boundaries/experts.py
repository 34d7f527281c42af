"""Routed experts as one node, through transformers' experts registry."""

from __future__ import annotations

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from . import IMPLEMENTATION, define


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
