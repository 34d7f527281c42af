"""Attention over raw keys and, behind them, compressed keys that stand for several tokens each."""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from torch import fx

from oplib.symbols import P, S
from tracer.match import matcher, targets
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow, Role


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
    topk = selected(flow, chosen) if chosen is not None else sympy.Integer(0)
    if not topk.is_Integer:
        reason = f"its selection grows with the length: {topk} keys"
        return Refusal(node=node, op="compressed_attention", reason=reason)
    masking = [n for n in _mask_nodes(flow, mask, node) if n not in taken]
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
            "topk": int(topk),
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
    )


def key_ratio(flow: Flow, keys: sympy.Expr) -> int | None:
    """How many tokens each of `keys` compressed keys stands for: r where after n tokens there are ⌊n/r⌋ of them.

    A trace knows them as ⌊p/r⌋ + ⌊s/r⌋ and, where cached and new tokens close one more block at the workload that it
    was made at, one more.
    """
    divisors = {f.args[0].as_numer_denom()[1] for f in keys.atoms(sympy.floor)}
    if len(divisors) != 1:
        return None
    (ratio,) = divisors
    surplus = set()
    for cached, new in ((7, 3), (40, 11)):
        tokens = 1 if flow.trace.phase == "generation" else new * ratio
        found = keys.subs({P: cached * ratio, S: tokens})
        surplus.add(found - (cached * ratio + tokens) // ratio)
    return int(ratio) if surplus in ({0}, {1}) else None


def selection(flow: Flow, mask: fx.Node | None) -> fx.Node | None:
    """The one top-k that a mask of data is made of, if there is one."""
    if mask is None or flow.role[mask] is not Role.DATA:
        return None
    found = [n for n in _of_mask(flow, mask) if targets.base_name(n) == "topk"]
    return found[0] if len(found) == 1 else None


def selected(flow: Flow, chosen: fx.Node) -> sympy.Expr:
    """The keys that a top-k leaves each query."""
    return flow.shape(next(iter(chosen.users)))[-1]


def _of_mask(flow: Flow, mask: fx.Node) -> Iterator[fx.Node]:
    """Nodes of data that a mask is made of, back to a selection; what a constant took its form from is not one."""
    stack, seen = [mask], set()
    while stack:
        node = stack.pop()
        if node in seen or node.op != "call_function" or flow.role[node] is not Role.DATA:
            continue
        seen.add(node)
        if targets.base_name(node) == "topk":
            yield node
        elif (targets.is_view(node) or targets.is_pointwise(node)) and not targets.is_constant(
            node
        ):
            yield node
            stack.extend(flow.inputs[node])


def _mask_nodes(flow: Flow, mask: fx.Node | None, attention: fx.Node) -> list[fx.Node]:
    """Pointwise nodes that make the mask of this attention and nothing else."""
    if mask is None or flow.role[mask] is not Role.DATA:
        return []
    found = {n for n in _of_mask(flow, mask) if targets.is_pointwise(n)}
    while outside := {n for n in found if flow.readers([n]) - found - {attention}}:
        found -= outside
    return sorted(found, key=flow.position)
