"""The place of layers that a representative stands for: what they would change passes through, and nothing is computed.

One node keeps the work before such layers apart from the work behind them, as the layers themselves do.
"""

from __future__ import annotations

import torch

from . import define


def _fake(hidden_states):
    """(...) -> the same shape."""
    return torch.empty_like(hidden_states)


skipped = define("skipped(Tensor hidden_states) -> Tensor", _fake)
