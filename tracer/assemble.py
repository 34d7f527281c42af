"""From claims to ops: names, counts, weights, provenance."""

from __future__ import annotations

from torch import fx

from oplib.op import Op
from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.weights import Weights

MOST_PLACES = 24


def ops(matched: Matched, weights: Weights) -> tuple[Op, ...]:
    """The ops of one phase, in order of execution. A parameter that several ops use is held by the first."""
    owned: set[str] = set()
    return tuple(_op(matched, claim, weights, owned) for claim in matched.claims)


def _op(matched: Matched, claim: Claim, weights: Weights, owned: set[str]) -> Op:
    flow = matched.flow
    names = [flow.trace.parameters[p.name][0] for p in dict.fromkeys(claim.parameters)]
    numerator, denominator = claim.share
    new = [n for n in names if n not in owned or numerator != denominator]
    owned.update(names)
    total = sum(weights.bytes(n) for n in new)
    part = total * numerator // denominator
    if (
        numerator != denominator and not claim.nodes
    ):  # the second of two ops that split a weight takes the rest
        part = total - total * (denominator - numerator) // denominator
    params = dict(claim.params)
    if claim.kind in ("gemm", "embedding") and names and not new:
        params["tied"] = True
    if "kv_dtype" in params and weights.scheme.kv_dtype:
        params["kv_dtype"] = weights.scheme.kv_dtype
    kept = flow.pruning.of(flow.origin(claim.anchor).module)
    return Op(
        op=claim.kind,
        name=_name(matched, claim, kept),
        count=kept.layer.count if kept else 1,
        params=params,
        dims=claim.dims,
        weight_bytes=part,
        where=_where(matched, claim),
        source=flow.origin(claim.anchor).source,
        rewrites=tuple(dict.fromkeys(claim.rewrites)),
        layer=kept.id if kept else "",
    )


def set_modes(matched: Matched, weights: Weights) -> None:
    """Put the quantisation mode of its main weight into each claim that has one: what merges must agree in it."""
    for claim in matched.of("gemm", "bmm", "moe", "embedding"):
        names = [matched.flow.trace.parameters[p.name][0] for p in claim.parameters]
        if names:
            main = max(names, key=lambda n: weights.model.get_parameter(n).numel())
            claim.params["dtype"], group = weights.mode(main)
            if claim.kind in ("gemm", "moe"):
                claim.params["group_size"] = group or 0


def _name(matched: Matched, claim: Claim, kept) -> str:
    flow = matched.flow
    path = claim.name or flow.origin(claim.anchor).module
    if claim.kind == "pointwise":
        path = _pointwise_name(matched, claim)
    elif claim.kind not in ("gemm", "embedding", "moe") and not claim.name:
        path = f"{path}.{claim.kind.removeprefix(flow.trace.phase + '_')}"
    prefix = f"{kept.traced}." if kept else ""
    return path.removeprefix(prefix) or path


def _pointwise_name(matched: Matched, claim: Claim) -> str:
    """The modules whose work a cluster does; where only a layer's own lines do it, what they do."""
    flow = matched.flow
    modules = list(dict.fromkeys(flow.origin(n).module for n in claim.nodes))
    layers = {kept.traced for kept in flow.pruning.kept}
    named = [m for m in modules if m and m not in layers]
    if not named:
        what = "residual" if claim.params["functions"] == "add" else claim.params["functions"]
        return f"{modules[0]}.{what}" if modules[0] else what
    if len(claim.nodes) == 1:
        return f"{named[0]}.{targets.base_name(claim.nodes[0]).strip('_')}"
    shown = named[:3]
    base = shown[0]
    extra = [m.rpartition(".")[2] for m in shown[1:]]
    return "+".join([base, *extra])


def _where(matched: Matched, claim: Claim) -> tuple[str, ...]:
    flow = matched.flow
    paths = dict.fromkeys(
        flow.pruning.original(flow.origin(n).module) for n in [*claim.nodes, claim.anchor]
    )
    return tuple(p for p in paths if p)[:MOST_PLACES]


def groups(matched: Matched) -> dict[fx.Node, tuple[str, int | str]]:
    """For each node: ("op", index of its op), ("free", group) or ("primitive", reason)."""
    place = {node: ("op", i) for i, claim in enumerate(matched.claims) for node in claim.nodes}
    place |= {node: ("free", name) for node, name in matched.free.items()}
    return place | {node: ("primitive", why) for node, why in matched.primitives.items()}
