"""The WKV recurrence as one node. Shapes: B batch, S tokens, C channels."""

from __future__ import annotations

import torch

from . import define, replaces


def _fake(time_decay, time_first, key, value, state):
    """Output like the keys; numerator, denominator and running maximum (B,C) in float32."""
    batch, _, channels = key.shape
    parts = [key.new_empty(batch, channels, dtype=torch.float32) for _ in range(3)]
    return torch.empty_like(key), *parts


_OP = define(
    "wkv(Tensor time_decay, Tensor time_first, Tensor key, Tensor value, Tensor[] state) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _fake,
    split={
        "time_decay": 0, "time_first": 0, "key": 2, "value": 2, "state": 1, "out0": 2, "out1": 1, "out2": 1, "out3": 1,
    },
)  # fmt: skip


@replaces("rwkv_linear_attention")
def rwkv_linear_attention(time_decay, time_first, key, value, state=None, return_state=False):
    """(C), (C), (B,S,C) x2, three states (B,C) or None -> (B,S,C) and the states."""
    out, *new = _OP(time_decay, time_first, key, value, list(state or []))
    return out, (new if return_state or state is not None else None)
