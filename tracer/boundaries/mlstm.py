"""The matrix LSTM (mLSTM) as one node. Shapes: B batch, H heads, S tokens, D key size, V value size."""

from __future__ import annotations

import torch

from . import define, replaces_method


def _fake(query, key, value, igate, fgate, states, chunk_size, state_dtype):
    """The dtypes of the reference: whole chunks keep states as wide as the keys, single tokens as configured."""
    batch, heads, tokens, width = query.shape
    whole = tokens > 1 and tokens % chunk_size == 0
    shapes = [(batch, heads, width, value.shape[3]), (batch, heads, width), (batch, heads, 1)]
    new = [query.new_empty(s, dtype=key.dtype if whole else state_dtype) for s in shapes]
    return query.new_empty(batch, heads, tokens, value.shape[3]), *new


_OP = define(
    "mlstm(Tensor query, Tensor key, Tensor value, Tensor igate, Tensor fgate, Tensor[] states, int chunk_size, "
    "ScalarType state_dtype) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake,
    split={
        **dict.fromkeys(("query", "key", "value", "igate", "fgate", "states"), 1),
        **dict.fromkeys(("out0", "out1", "out2", "out3"), 1),
    },
)


@replaces_method(
    "forward", "query", "key", "value", "igate", "fgate", "c_initial", "n_initial", "m_initial"
)
def mlstm(
    module, query, key, value, igate, fgate, c_initial=None, n_initial=None, m_initial=None,
    return_last_states=None, mode=None,
):  # fmt: skip
    """(B,H,S,D) x2, (B,H,S,V), gates (B,H,S) x2, states (B,H,D,V), (B,H,D), (B,H,1) or None -> (B,H,S,V), states.

    In the modes for training the states come back on demand alone.
    """
    config = module.config
    states = [s for s in (c_initial, n_initial, m_initial) if s is not None]
    state_dtype = getattr(torch, config.inference_state_dtype)
    out, *new = _OP(query, key, value, igate, fgate, states, config.chunk_size, state_dtype)
    if "train" not in (mode or config.mode):
        return out, tuple(new)
    wanted = config.return_last_states if return_last_states is None else return_last_states
    return (out, tuple(new)) if wanted else out
