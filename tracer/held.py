"""What a pass leaves in memory: the cache of the whole model, tensor by tensor, and how each lies on ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import sympy
from torch import fx

from oplib.symbols import B, P, format_expr
from tracer.cache import Leaf, Path
from tracer.match.claim import Claim, Matched
from tracer.parallel.shards import split
from tracer.parallel.spread import Spread
from tracer.parallel.state import Split

if TYPE_CHECKING:
    from tracer.analysis import Traced

Json = dict[str, Any]  # Any: an object that becomes JSON


def kv_cache(
    traced: Traced,
    spreads: Mapping[str, Spread],
    matched: Mapping[str, Matched] = MappingProxyType({}),
) -> Json:
    """Bytes of the whole model's cache: per token where it grows, per sequence where it is bounded; and its tensors,
    one entry for all layers that a representative stands for. `matched` are the claims of each phase.
    """
    leaves = [
        (leaf, layer, count)
        for leaf in traced.capture.leaves
        for layer, count in [_layer_of(leaf.path, traced)]
        if leaf.shape and count
    ]
    total = sum((leaf.bytes * count for leaf, _, count in leaves), sympy.Integer(0))
    one = total.subs(B, 1)
    parts = [sympy.denom(f.args[0]) for f in one.atoms(sympy.floor)]
    far = 2**40 * math.lcm(*map(int, (*parts, *(m.args[1] for m in one.atoms(sympy.Mod)))))
    per_token = sympy.Rational(one.subs(P, 2 * far) - one.subs(P, far), far)
    per_sequence = one.subs(P, far) - per_token * far
    return {
        "bytes_per_token": _number(per_token),
        "bytes_per_sequence": _number(per_sequence),
        "expression": format_expr(sympy.factor_terms(total)),
        "stored_as": traced.scheme.kv_dtype or "",
        "leaves": [
            {
                "layer": layer,
                "count": count,
                "bytes": format_expr(leaf.bytes),
                "dtype": str(leaf.dtype).removeprefix("torch."),
                "grows": any(size.has(P) for size in leaf.shape),
                "shards": _shards(leaf, spreads, matched),
            }
            for leaf, layer, count in leaves
        ],
    }


def _shards(leaf: Leaf, spreads: Mapping[str, Spread], matched: Mapping[str, Matched]) -> Json:
    """Of the bytes of a tensor, how much is dealt to ranks in how many parts, by the first phase that splits it.

    What is computed whole on each rank, but read by heads that are dealt, is kept for the heads of the rank alone.
    """
    for phase, spread in spreads.items():
        trace = spread.flow.trace
        if leaf.path not in trace.cache:
            continue
        value = trace.graph.output_node().args[0][1 + trace.cache.index(leaf.path)]
        state = spread.of(value)
        if isinstance(state, Split):
            parts = spread.parts(state)
            return _dealt(leaf, parts, sum(parts.values()))
        for claim in matched[phase].claims if phase in matched else ():
            if "num_kv_heads" in claim.axes and _reads(spread, claim, value):
                found = split(spread, claim, 0).shards.get("num_kv_heads", {})
                return _dealt(leaf, found, claim.params["num_kv_heads"])
    return {}


def _dealt(
    leaf: Leaf, parts: Mapping[int, Any], total: int
) -> Json:  # Any: numbers, of sympy or not
    return {
        str(units): format_expr(leaf.bytes * sympy.Rational(size, total))
        for units, size in parts.items()
        if units > 1
    }


def _reads(spread: Spread, claim: Claim, value: fx.Node) -> bool:
    source = spread.flow.source
    return any(source(node) is source(value) for node in claim.inputs)


def _layer_of(path: Path, traced: Traced) -> tuple[str, int]:
    """The representative layer that a tensor of the traced cache belongs to (empty outside the layers), and how many
    layers of the full model it stands for.

    That of the module which wrote it; where no call did, that of its place in a list with one slot per layer.
    """
    pruning = traced.pruning
    if (writer := traced.traces["context"].written.get(path)) is not None:
        kept = pruning.of(writer)
        return (kept.id if kept else ""), pruning.count(writer)
    part: Any = traced.capture.template  # parts of a cache of transformers
    for step in path:
        if isinstance(part, list | tuple):
            stack = pruning.stack_of(len(part))
            if stack:
                found = (k for k in stack if k.layer.representative == step)
                return next(((k.id, k.layer.count) for k in found), ("", 0))
        inside: Any = part if isinstance(part, list | tuple | Mapping) else vars(part)
        part = inside[step]
    return "", 1


def _number(value: sympy.Expr) -> int | float:
    return int(value) if value.is_Integer else float(value)
