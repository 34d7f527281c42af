"""From claims to ops: names, counts, weights, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from oplib.op import Op
from tracer.match import targets
from tracer.match.claim import Claim, Matched
from tracer.parallel.shards import split
from tracer.parallel.spread import Spread
from tracer.weights import Weights

MOST_PLACES = 24


def ops(matched: Matched, weights: Weights, spread: Spread | None = None) -> tuple[Op, ...]:
    """The ops of one phase, in order of execution. A parameter that several ops use is held by the first. With how
    values are dealt to ranks, ops say how they are split.
    """
    return tuple(_op(matched, part, weights, spread) for part in _parts(matched))


@dataclass(frozen=True, slots=True)
class _Part:
    """Occurrences of a claim that hold the same parameters, of those that it reads."""

    claim: Claim
    count: int
    reads: list[str]
    held: list[str]


def _parts(matched: Matched) -> Iterator[_Part]:
    """Where layers share a parameter, as many occurrences hold it as there are distinct ones; the others read it."""
    flow = matched.flow
    owned: set[str] = set()
    for claim in matched.claims:
        names = [flow.trace.parameters[p.name][0] for p in dict.fromkeys(claim.parameters)]
        new = [n for n in names if n not in owned or claim.share[0] != claim.share[1]]
        owned.update(names)
        count = flow.pruning.count(flow.origin(claim.anchor).module)
        copies = {n: min(count, flow.pruning.copies.get(n, count)) for n in new}
        done = 0
        for level in sorted({*copies.values(), count} - {0}):
            yield _Part(claim, level - done, names, [n for n in new if copies[n] >= level])
            done = level


def _op(matched: Matched, part: _Part, weights: Weights, spread: Spread | None) -> Op:
    flow, claim = matched.flow, part.claim
    numerator, denominator = claim.share
    total = sum(weights.bytes(n) for n in part.held)
    weight = total * numerator // denominator
    if (
        numerator != denominator and not claim.nodes
    ):  # the second of two ops that split a weight takes the rest
        weight = total - total * (denominator - numerator) // denominator
    params = dict(claim.params)
    if claim.kind in ("gemm", "embedding") and part.reads and not part.held:
        params["tied"] = True
    if "kv_dtype" in params and weights.scheme.kv_dtype:
        params["kv_dtype"] = weights.scheme.kv_dtype
    kept = flow.pruning.of(flow.origin(claim.anchor).module)
    return Op(
        op=claim.kind,
        name=_name(matched, claim, kept),
        count=part.count,
        params=params,
        dims=claim.dims,
        weight_bytes=weight,
        where=_where(matched, claim),
        source=flow.origin(claim.anchor).source,
        rewrites=tuple(dict.fromkeys(claim.rewrites)),
        layer=kept.id if kept else "",
        stage="" if kept or not spread else _stage(matched, claim, spread),
        **(split(spread, claim, weight).fields() if spread else {}),
    )


def _stage(matched: Matched, claim: Claim, spread: Spread) -> str:
    """On which side of the layers the model's pipeline plan puts an op."""
    module = matched.flow.origin(claim.anchor).module
    sides = (spread.plan.stage(module, kept.layer.stack) for kept in matched.flow.pruning.kept)
    return next(filter(None, sides), "")


def set_modes(matched: Matched, weights: Weights) -> None:
    """Put the quantisation mode of its main weight into each claim that has one: what merges must agree in it."""
    for claim in matched.of("gemm", "bmm", "moe", "embedding", "grouped_gemm"):
        names = [matched.flow.trace.parameters[p.name][0] for p in claim.parameters]
        if names:
            main = max(names, key=lambda n: weights.model.get_parameter(n).numel())
            claim.params["dtype"], group = weights.mode(main)
            if claim.kind in ("gemm", "moe"):
                claim.params["group_size"] = group or 0


def _name(matched: Matched, claim: Claim, kept) -> str:
    flow = matched.flow
    path = claim.name or flow.origin(claim.anchor).module
    if claim.kind == "pointwise" and claim.nodes:
        path = _pointwise_name(matched, claim)
    elif claim.kind not in ("gemm", "embedding", "moe", "grouped_gemm") and not claim.name:
        path = f"{path}.{claim.kind.removeprefix(flow.trace.phase + '_')}"
    prefix = f"{kept.id}." if kept else ""
    return path.removeprefix(prefix) or path


def _pointwise_name(matched: Matched, claim: Claim) -> str:
    """The modules whose work a cluster does; where only a layer's own lines do it, what they do."""
    flow = matched.flow
    modules = list(dict.fromkeys(flow.origin(n).module for n in claim.nodes))
    layers = {kept.id for kept in flow.pruning.kept}
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
    paths = dict.fromkeys(flow.origin(n).module for n in [claim.anchor, *claim.nodes])
    return tuple(p for p in paths if p)[:MOST_PLACES]


def groups(matched: Matched) -> dict[fx.Node, tuple[str, int | str]]:
    """For each node: ("op", index of its first op), ("free", group) or ("primitive", reason)."""
    first: dict[int, int] = {}
    for i, part in enumerate(_parts(matched)):
        first.setdefault(id(part.claim), i)
    place: dict[fx.Node, tuple[str, int | str]] = {
        node: ("op", first[id(claim)]) for claim in matched.claims for node in claim.nodes
    }
    place |= {node: ("free", name) for node, name in matched.free.items()}
    return place | {node: ("primitive", why) for node, why in matched.primitives.items()}
