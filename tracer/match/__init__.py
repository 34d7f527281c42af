"""Matching: every node of a trace ends in one claim, one named free group, or as a primitive.

Each file holds the matchers of one op and registers them with `matcher`. A matcher looks at one node and returns a
`Claim`, a `Refusal` with the reason, or None where the node is nothing to it. Patterns of several nodes run before
single nodes, and memory-bound work comes last.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum

from torch import fx

from oplib.symbols import P
from tracer.match import targets
from tracer.match.claim import Claim, Matched, Matcher, Refusal
from tracer.match.flow import Flow, Role


class Stage(IntEnum):
    """When a matcher runs: patterns of several nodes, then single nodes, then what is left and memory-bound."""

    PATTERN = 0
    NODE = 1
    MEMORY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registered matcher: the operators it looks at (all, when empty) and when it runs."""

    name: str
    match: Matcher
    operators: frozenset[str]
    stage: Stage


_ENTRIES: dict[str, Entry] = {}


def matcher(name: str, *operators: str, stage: Stage = Stage.NODE) -> Callable[[Matcher], Matcher]:
    """Register a matcher under a name, for nodes that call these operators (`aten.linear`, `trace_model.experts`)."""

    def register(function: Matcher) -> Matcher:
        if name in _ENTRIES:
            raise RuntimeError(
                f"two matchers are named {name!r}: {_ENTRIES[name].match.__module__} and {function.__module__}"
            )
        _ENTRIES[name] = Entry(
            name=name, match=function, operators=frozenset(operators), stage=stage
        )
        return function

    return register


def matchers() -> dict[str, Entry]:
    """Every registered matcher by name."""
    return dict(sorted(_ENTRIES.items()))


def match(flow: Flow, *, without: Collection[str] = ()) -> Matched:
    """Match the whole graph. `without` leaves matchers out: what they would take becomes a primitive."""
    matched = Matched(flow=flow, claims=[], free=_free(flow), primitives={}, refusals={})
    taken: set[fx.Node] = set(matched.free)
    entries = [e for e in matchers().values() if e.name not in without]
    for stage in Stage:
        by_operator: dict[str, list[Entry]] = {}
        general = [e for e in entries if e.stage is stage and not e.operators]
        for entry in (e for e in entries if e.stage is stage and e.operators):
            for name in entry.operators:
                by_operator.setdefault(name, []).append(entry)
        for node in flow.nodes:
            if node not in taken:
                _try(
                    matched, taken, node, [*by_operator.get(targets.full_name(node), ()), *general]
                )
    matched.primitives = {n: _why(matched, n) for n in flow.nodes if n not in taken}
    _cut_windows(matched)
    matched.sort()
    return matched


def _cut_windows(matched: Matched) -> None:
    """Products over a windowed cache, such as the expansion of its latents: as many rows as the window keeps."""
    for claim in matched.of("gemm", "bmm"):
        if any(size.has(P) for size in claim.dims.values()):
            lengths = matched.flow.cached_lengths(claim.nodes)
            if len(lengths) == 1:
                length = lengths.pop()
                claim.dims = {name: size.subs(P, length) for name, size in claim.dims.items()}


def _try(matched: Matched, taken: set[fx.Node], node: fx.Node, entries: list[Entry]) -> None:
    for entry in entries:
        result = entry.match(matched.flow, node, taken)
        if isinstance(result, Claim):
            result.nodes = [n for n in dict.fromkeys(result.nodes) if n not in taken]
            taken.update(result.nodes)
            matched.claims.append(result)
            return
        if isinstance(result, Refusal):
            matched.refusals.setdefault(node, []).append(result)


def _why(matched: Matched, node: fx.Node) -> str:
    refusals = matched.refusals.get(node)
    if refusals:
        return "; ".join(f"{r.op}: {r.reason}" for r in refusals)
    return f"no op computes {targets.full_name(node)}"


def _free(flow: Flow) -> dict[fx.Node, str]:
    """Nodes that cost nothing of their own, by group. An operator that positions never use is not free, whatever
    feeds it; nor is a product of matrices.
    """
    free: dict[fx.Node, str] = {}
    for node in flow.nodes:
        if targets.is_product(node):
            continue
        if targets.full_name(node) == "trace_model.skipped":
            free[node] = "layers counted by their representative"
            continue
        if targets.is_shape_arithmetic(node):
            free[node] = "shape arithmetic"
        elif node not in flow.alive and (
            targets.is_pointwise(node)
            or (flow.role[node] is not Role.DATA and targets.is_position(node))
        ):
            free[node] = "unused"
        elif targets.is_constant(node):
            free[node] = "constant"
        elif flow.role[node] is Role.POSITION and targets.is_position(node):
            free[node] = "position and mask arithmetic"
        elif targets.is_view(node):
            free[node] = "view"
    return free


for _info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name):
    importlib.import_module(f"{__name__}.{_info.name}")
