"""Linear recurrences: fixed decay per head (linear attention), gated (mLSTM), and per channel (WKV, RG-LRU)."""

from __future__ import annotations

from torch import fx

from tracer.match import matcher
from tracer.match.claim import Claim, Result
from tracer.match.flow import Flow
from tracer.match.scans import scan_claim


@matcher("linear_attention", "trace_model.linear_attention")
def linear_attention(flow: Flow, node: fx.Node, _taken) -> Result:
    """q, k (B,H,S,K), v (B,H,S,V); the slopes of the decay are constants."""
    query, key, value, _, _, chunk_size = node.args
    return _of_heads(flow, node, "linear_attention", [query, key, value], chunk_size)


@matcher("mlstm", "trace_model.mlstm")
def mlstm(flow: Flow, node: fx.Node, _taken) -> Result:
    """q, k (B,H,S,K), v (B,H,S,V) and two gates (B,H,S); a cache keeps the states at its own width."""
    query, key, value, igate, fgate, states, chunk_size, _ = node.args
    inputs = [query, key, value, igate, fgate]
    claim = _of_heads(flow, node, "mlstm", inputs, chunk_size)
    if states:
        claim.params["state_dtype"] = flow.dtype(states[0])
    return claim


def _of_heads(
    flow: Flow, node: fx.Node, kind: str, inputs: list[fx.Node], chunk_size: int
) -> Claim:
    batch, heads, new, width = flow.shape(inputs[0])
    params = {
        "num_heads": int(heads),
        "head_k_dim": int(width),
        "head_v_dim": int(flow.shape(inputs[2])[3]),
        "chunk_size": chunk_size,
        "dtype": flow.dtype(inputs[2]),
    }
    return scan_claim(flow, node, kind, params, batch, new, inputs, {"num_heads": (inputs[0], 1)})


@matcher("wkv", "trace_model.wkv")
def wkv(flow: Flow, node: fx.Node, _taken) -> Result:
    """k and v (B,S,C), decay and bonus (C) that no other op reads."""
    key, value = node.args[2:4]
    return _of_channels(flow, node, "wkv", [key, value])


@matcher("rg_lru", "trace_model.rg_lru")
def rg_lru(flow: Flow, node: fx.Node, _taken) -> Result:
    """x and its decay (B,S,C)."""
    x, decay = node.args[:2]
    return _of_channels(flow, node, "rg_lru", [x, decay])


def _of_channels(flow: Flow, node: fx.Node, kind: str, inputs: list[fx.Node]) -> Claim:
    batch, new, channels = flow.shape(inputs[0])
    params = {"channels": int(channels), "dtype": flow.dtype(inputs[0])}
    return scan_claim(flow, node, kind, params, batch, new, inputs, {"channels": (inputs[0], 2)})
