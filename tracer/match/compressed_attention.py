"""Attention over raw keys and, behind them, compressed keys that stand for several tokens each."""

from __future__ import annotations

from torch import fx

from oplib.symbols import P
from tracer.match import matcher
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow
from tracer.match.selection import key_ratio, mask_nodes, selection, selection_limit


@matcher("compressed_attention", "trace_model.attention")
def compressed_attention(flow: Flow, node: fx.Node, taken) -> Result:
    """Keys (B,G,p + s + compressed,D) that one `cat` joins, and the mask that says which compressed ones are seen."""
    query, key, value, mask, sinks, bias, indices, _, _, window, chunk, softcap = node.args
    batch, heads, new, head_dim = flow.shape(query)
    ratio = key_ratio(flow, flow.shape(key)[2] - new - P)
    if ratio is None:
        return None
    if bias is not None or indices is not None or chunk or softcap:
        reason = "a bias, indices, chunks or a soft cap are not part of it"
        return Refusal(node=node, op="compressed_attention", reason=reason)
    chosen = selection(flow, mask)
    topk = 0 if chosen is None else selection_limit(chosen.keys, flow.shape(key)[2] - new - P)
    if chosen is not None and topk is None:
        reason = f"its selection grows with the length: {chosen.keys} keys"
        return Refusal(node=node, op="compressed_attention", reason=reason)
    masking = [n for n in mask_nodes(flow, mask, node) if n not in taken]
    owned = flow.parameter(sinks) if sinks is not None else None
    return Claim(
        kind="compressed_attention",
        params={
            "num_heads": int(heads),
            "num_kv_heads": int(flow.shape(key)[1]),
            "head_dim": int(head_dim),
            "v_head_dim": int(flow.shape(value)[3]),
            "shared_kv": key is value,
            "window": window,
            "ratio": ratio,
            "topk": topk,
            "sinks": sinks is not None,
            "dtype": flow.dtype(query),
            "kv_dtype": flow.dtype(key),
            "masking": "computed",
        },
        dims={"b": batch, "s": new, "p": P},
        nodes=[*masking, *(owned[1] if owned else ()), node],
        anchor=node,
        inputs=[query, key, value],
        parameters=[owned[0]] if owned else [],
        axes={"num_heads": (query, 1), "num_kv_heads": (key, 1)},
    )
