"""How much memory the activations of a phase take: the values that are alive at once, read off the graph.

A value lives from the node that makes it to the last node that reads it, through views or in place. Values within one
op or one fused cluster are never stored. Parameters, the cache that is given and the cache that is left are not
activations, nor are masks and positions, which kernels make on the fly. Experts store what they route: the tokens of
each (token, expert) pair, what lies between the two products, and their results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from oplib.symbols import S, evaluate, format_expr
from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.match.flow import Flow, Role
from tracer.parallel.spread import Spread
from tracer.parallel.state import Split

Json = dict[str, Any]  # Any: an object that becomes JSON

#: Where the fullest moment is looked for: it may be another for few and many tokens, and for long caches.
_CONTEXT = [(1, 1, 0), (1, 64, 0), (1, 8192, 0), (64, 512, 0), (1, 64, 65536), (16, 4096, 32768)]
_GENERATION = [(1, 1, 0), (1, 1, 131072), (64, 1, 128), (256, 1, 65536)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One stored value: alive from one node to another (places in the graph), its bytes, and how they lie on ranks.

    `routed` and `inner` are bytes of the (token, expert) pairs of a mixture, hidden and intermediate features.
    """

    start: int
    stop: int
    bytes: sympy.Expr
    node: fx.Node
    routed: sympy.Expr = sympy.S.Zero
    inner: sympy.Expr = sympy.S.Zero


def activations(lowered: Mapping[str, Matched], spreads: Mapping[str, Spread]) -> Json:
    """For each phase, the bytes alive at its fullest moments, of which there may be several."""
    return {phase: _peaks(matched, spreads[phase]) for phase, matched in lowered.items()}


def _peaks(matched: Matched, spread: Spread) -> Json:
    values = list(stored(matched))
    points = _CONTEXT if matched.flow.trace.phase == "context" else _GENERATION
    moments = sorted(set(_fullest(values, points)))
    peaks = [_moment(matched, spread, values, at) for at in moments]
    unique = {str((p["bytes"], p["shards"], p["experts"])): p for p in peaks}
    sizes = dict.fromkeys(_all_bytes(p) for p in unique.values())
    total = sympy.Max(*sizes, evaluate=False) if len(sizes) > 1 else next(iter(sizes), sympy.S.Zero)
    return {"bytes": format_expr(total), "peaks": [_json(p) for p in unique.values()]}


def _all_bytes(peak: Json) -> sympy.Expr:
    return peak["bytes"] + sum(peak["experts"].values())


def stored(matched: Matched) -> Iterator[Value]:
    """The values that a phase stores, under the lowering of its claims."""
    flow, owner = matched.flow, matched.owner
    order = {n: i for i, n in enumerate(flow.nodes)}
    kept = {flow.root(v) for v in flow.trace.graph.output_node().args[0][1:]}
    memory: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in flow.nodes:
        memory[flow.root(node)].append(node)
    for root, nodes in memory.items():
        if root.op != "call_function" or root in kept or root not in order:
            continue
        if not _is_data(matched, owner, nodes):
            continue
        readers = {u for n in nodes for u in flow.users[n]}.difference(nodes)
        claims = {owner[n] for n in nodes if n in owner}
        if len(claims) == 1 and readers and all(owner.get(u) in claims for u in readers):
            continue  # it never leaves its op
        last = max((order.get(u, len(order)) for u in readers), default=order[root])
        size = _bytes(flow, root)
        absorbed = [c for c in claims if c.kind == "bmm" and "absorb_mla" in c.rewrites]
        if absorbed:  # in place of keys and values of all tokens, queries in the latent space
            (one,) = absorbed
            size = one.dims["batch"] * one.dims["m"] * one.params["n"] * torch.bfloat16.itemsize
        if any("last_token_logits" in c.rewrites for c in claims):
            size = size.subs(S, 1)
        yield Value(start=order[root], stop=last, bytes=size, node=root)
    for claim in matched.of("moe"):
        yield _routed(claim, order[claim.anchor])


def _is_data(matched: Matched, owner: Mapping[fx.Node, Claim], nodes: Iterable[fx.Node]) -> bool:
    """Whether memory holds token data that an op or a primitive writes, and is not a cache that is appended to."""
    return any(
        (n in owner or n in matched.primitives) and matched.flow.role[n] is Role.DATA for n in nodes
    ) and not any(matched.free.get(n) == "cache append" for n in nodes)


def _bytes(flow: Flow, node: fx.Node) -> sympy.Expr:
    """Bytes of a value; of a scan's results those of the first, the others being its state in the cache."""
    value = node.meta["val"]
    if isinstance(value, list | tuple) and targets.full_name(node).startswith("trace_model."):
        return sympy.Mul(*(flow.trace.expr(d) for d in value[0].shape)) * value[0].dtype.itemsize
    return flow.bytes(node)


def _routed(claim: Claim, at: int) -> Value:
    params, pairs = claim.params, claim.dims["m"] * claim.params["top_k"]
    width = torch.bfloat16.itemsize
    inputs = 2 if params.get("gated", True) else 1
    return Value(
        start=at,
        stop=at,
        bytes=sympy.S.Zero,
        node=claim.anchor,
        routed=2 * pairs * params["hidden_size"] * width,
        inner=inputs * pairs * params["intermediate_size"] * width,
    )


def _fullest(values: list[Value], points: Iterable[tuple[int, int, int]]) -> Iterator[int]:
    """The first place at which most bytes are alive, for each workload."""
    sizes = {e for v in values for e in (v.bytes, v.routed, v.inner)}
    for b, s, p in points:
        at = {e: evaluate(e, b=b, s=s, p=p) for e in sizes}
        change: dict[int, float] = defaultdict(float)
        for v in values:
            size = at[v.bytes] + at[v.routed] + at[v.inner]
            change[v.start] += size
            change[v.stop + 1] -= size
        best, most, alive = 0, -1.0, 0.0
        for place in sorted(change):
            alive += change[place]
            if alive > most:
                best, most = place, alive
        yield best


def _moment(matched: Matched, spread: Spread, values: list[Value], at: int) -> Json:
    alive = [v for v in values if v.start <= at <= v.stop]
    dealt: dict[int, sympy.Expr] = defaultdict(lambda: sympy.S.Zero)
    for value in alive:
        state = spread.of(value.node)
        if isinstance(state, Split):
            parts = spread.parts(state)
            for units, size in parts.items():
                if units > 1:
                    dealt[units] += value.bytes * sympy.Rational(size, sum(parts.values()))
    flow = matched.flow
    return {
        "bytes": sympy.Add(*(v.bytes for v in alive)),
        "where": flow.origin(flow.nodes[at]).module if flow.nodes else "",
        "shards": dict(dealt),
        "experts": {
            "hidden": sympy.Add(*(v.routed for v in alive)),
            "inner": sympy.Add(*(v.inner for v in alive)),
        },
    }


def _json(peak: Json) -> Json:
    return {
        "bytes": format_expr(peak["bytes"]),
        "where": peak["where"],
        "shards": {str(units): format_expr(size) for units, size in peak["shards"].items()},
        "experts": {name: format_expr(size) for name, size in peak["experts"].items()},
    }
