"""From the states of values to what an op says of its split: which of its sizes are dealt, and what must follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
from torch import fx

from oplib.symbols import S
from tracer.match.claim import Claim
from tracer.match.pointwise import by_source, traffic, unexpanded
from tracer.parallel.rules import shape
from tracer.parallel.spread import Spread
from tracer.parallel.state import Split

Dealt = dict[int, sympy.Expr]  # by the number of parts, how much is dealt in so many


@dataclass(slots=True, kw_only=True)
class Parallel:
    """How one op is split: the fields of `oplib.op.Op` of the same names."""

    parallel: str = ""
    shards: dict[str, Dealt] = field(default_factory=dict)
    collective: str = ""
    message: sympy.Expr = sympy.S.Zero

    def fields(self) -> dict[str, Any]:
        """As keyword arguments of an op; sizes that are on every rank are left out."""
        shards = {
            name: {parts: size for parts, size in dealt.items() if parts > 1}
            for name, dealt in self.shards.items()
        }
        return {
            "parallel": self.parallel,
            "shards": {name: dealt for name, dealt in shards.items() if dealt},
            "collective": self.collective,
            "message": self.message,
        }


def split(spread: Spread, claim: Claim, weight: int) -> Parallel:
    """How the op of a claim, which holds `weight` bytes, is split."""
    by_kind: dict[str, Callable[[Spread, Claim, int], Parallel]] = {
        "gemm": _gemm, "bmm": _bmm, "embedding": _embedding, "moe": _moe, "pointwise": _pointwise,
    }  # fmt: skip
    found = by_kind.get(claim.kind, _by_axes)(spread, claim, weight)
    if "last_token_logits" in claim.rewrites:
        found.message = found.message.subs(S, 1)
        found.shards = {
            name: {parts: sympy.sympify(size).subs(S, 1) for parts, size in dealt.items()}
            for name, dealt in found.shards.items()
        }
    return found


def _gemm(spread: Spread, claim: Claim, weight: int) -> Parallel:  # noqa: ARG001 - follows from n and k
    found = Parallel()
    linears = [n for n in claim.nodes if n in spread.linear_nodes]
    features: Dealt = defaultdict(lambda: sympy.S.Zero)
    for node in linears:
        if node in spread.rows:
            found.parallel, found.shards["k"] = "row", _numbers(spread.row_parts(node))
        elif node in spread.batches:
            found.parallel = "split"
            found.shards["m"] = _share(spread, spread.batches[node][1], claim.dims["m"])
        elif node in spread.columns:
            found.parallel = "column"
            for parts, size in spread.column_parts(node).items():
                features[parts] += size
    if features:
        found.shards["n"] = dict(features)
    _end(spread, found, linears)
    return found


def _end(spread: Spread, found: Parallel, nodes: Iterable[fx.Node]) -> None:
    """The collective behind an op, and the bytes of what it completes."""
    ended = [n for n in nodes if n in spread.ends]
    found.collective = next((spread.ends[n] for n in ended), "")
    found.message = sympy.Add(*(spread.flow.bytes(n) for n in ended))


def _bmm(spread: Spread, claim: Claim, weight: int) -> Parallel:
    if claim.axes:
        return _by_axes(spread, claim, weight)
    if claim.anchor not in spread.batches:
        return Parallel()
    what, state = spread.batches[claim.anchor]
    sizes = {**claim.params, **claim.dims}
    found = Parallel(parallel="split", shards={what: _share(spread, state, sizes[what])})
    if claim.parameters and what == "batch":
        found.shards["weight_bytes"] = _share(spread, state, weight)
    _end(spread, found, [claim.anchor])
    return found


def _embedding(spread: Spread, claim: Claim, weight: int) -> Parallel:  # noqa: ARG001 - follows from the rows
    if claim.anchor not in spread.ends:
        return Parallel()
    rows = claim.params["num_embeddings"]
    found = Parallel(parallel="vocabulary", shards={"num_embeddings": {rows: sympy.Integer(rows)}})
    _end(spread, found, [claim.anchor])
    return found


def _moe(spread: Spread, claim: Claim, weight: int) -> Parallel:  # noqa: ARG001 - follows from the experts
    """Whole experts, or a part of the features inside each: the layout decides."""
    found = Parallel()
    _end(spread, found, claim.nodes)
    if found.collective:
        found.parallel = "experts"
        whole = spread.plan.deals_experts(spread.flow.origin(claim.anchor).module)
        for name in ("num_experts", "intermediate_size") if whole else ("intermediate_size",):
            size = claim.params[name]
            found.shards[name] = {size: sympy.Integer(size)}
    return found


def _by_axes(spread: Spread, claim: Claim, weight: int) -> Parallel:
    """Attention, scans, convolutions, and what moves their states: the heads or channels of the values they read."""
    states = {name: _state_at(spread, *place) for name, place in claim.axes.items()}
    if not any(states.values()) and not any(_is_dealt(spread, n) for n in claim.nodes):
        return Parallel()
    found = Parallel(parallel="split" if "channels" in states else "heads")
    sizes = {**claim.params, **claim.dims}
    for name, state in states.items():
        node, axis = claim.axes[name]
        length = shape(node)[axis]
        if state is not None:
            found.shards[name] = _share(spread, state, sizes[name])
        elif length > 1:  # whole on each rank, which reads its slice of it
            found.shards[name] = {length: sympy.sympify(sizes[name])}
    if claim.parameters:
        name = next(iter(claim.axes))
        parts = found.shards.get(name, {})
        found.shards["weight_bytes"] = {
            units: weight * size / sympy.sympify(sizes[name]) for units, size in parts.items()
        }
    return found


def _is_dealt(spread: Spread, node: fx.Node) -> bool:
    state = spread.all_of(node)
    return any(isinstance(s, Split) for s in (state if isinstance(state, list) else [state]))


def _state_at(spread: Spread, node: fx.Node, axis: int) -> Split | None:
    state = spread.of(node)
    return state if isinstance(state, Split) and state.axis == axis else None


def _pointwise(spread: Spread, claim: Claim, weight: int) -> Parallel:
    """The bytes of values that are dealt, each in its parts."""
    if claim.axes:
        found = _by_axes(spread, claim, weight)
        found.parallel = "split" if found.parallel else ""
        return found
    if not any(isinstance(spread.of(n), Split) for n in claim.nodes) and not any(
        isinstance(spread.of(v), Split) for n in claim.nodes for v in n.all_input_nodes
    ):
        return Parallel()
    flow = spread.flow
    parameters = claim.parameters
    reads, writes = traffic(flow, claim)
    claim.parameters = parameters
    beside = {v: s for n in claim.nodes for v, s in _sliced(spread, n)}
    read: Dealt = defaultdict(lambda: sympy.S.Zero)
    for source, views in by_source(flow, reads).items():
        capped = len(views) > 1 and _more(flow.bytes(source), views)
        for value, size in ({source: flow.bytes(source)} if capped else views).items():
            inner = spread.of(unexpanded(value)) if not capped else spread.of(value)
            state = inner if isinstance(inner, Split) else beside.get(value)
            _add(read, _share(spread, state, size) if state else {})
    written: Dealt = defaultdict(lambda: sympy.S.Zero)
    for node, size in writes.items():
        made = spread.of(node)
        _add(written, _share(spread, made, size) if isinstance(made, Split) else {})
    found = Parallel(parallel="split", shards={"read": dict(read), "written": dict(written)})
    if weight:
        found.shards["weight_bytes"] = _of_parameters(spread, claim, beside, weight)
    return found if any(dealt for dealt in found.shards.values()) else Parallel()


def _more(whole: sympy.Expr, views: Mapping[fx.Node, sympy.Expr]) -> bool:
    at = {"b": 3, "s": 1000, "p": 5000}
    values = {symbol: at[symbol.name] for symbol in whole.free_symbols}
    total = sympy.Add(*views.values())
    return bool(total.subs({s: at[s.name] for s in total.free_symbols}) > whole.subs(values))


def _sliced(spread: Spread, node: fx.Node) -> Iterable[tuple[fx.Node, Split]]:
    """Whole inputs of a node that makes a dealt value, which a rank reads in slices; a parameter by its own node."""
    state = spread.of(node)
    if not isinstance(state, Split):
        return
    made = shape(node)
    for value in node.all_input_nodes:
        if spread.of(value) is not None or not hasattr(value.meta.get("val"), "shape"):
            continue
        axis = state.axis - len(made) + len(shape(value))
        if axis >= 0 and shape(value)[axis] == made[state.axis]:
            owned = spread.flow.parameter(value)
            yield (owned[0] if owned else value), state


def _of_parameters(
    spread: Spread, claim: Claim, beside: Mapping[fx.Node, Split], weight: int
) -> Dealt:
    """Of the weight of a cluster, what lies along a dealt axis."""
    flow = spread.flow
    total = sum(int(flow.bytes(p)) for p in claim.parameters) or 1
    found: Dealt = defaultdict(lambda: sympy.S.Zero)
    for parameter in dict.fromkeys(claim.parameters):
        if parameter in beside:
            part = sympy.Rational(weight * int(flow.bytes(parameter)), total)
            _add(found, _share(spread, beside[parameter], part))
    return dict(found)


def _share(spread: Spread, state: Split, size: Any) -> Dealt:
    """A size that is proportional to the split axis, by the parts it is dealt in."""
    parts = spread.parts(state)
    if len(parts) == 1:
        return {next(iter(parts)): sympy.sympify(size)}
    total = sum(parts.values())
    return {units: sympy.sympify(size) * sympy.Rational(n, total) for units, n in parts.items()}


def _add(to: Dealt, more: Mapping[int, sympy.Expr]) -> None:
    for parts, size in more.items():
        to[parts] += size


def _numbers(parts: Mapping[int, int]) -> Dealt:
    return {units: sympy.Integer(size) for units, size in parts.items()}
