"""How the ops of a trace are split over tensor-parallel ranks: read off the model's plan and its graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tracer.match.flow import Flow
from tracer.parallel.plan import Plan
from tracer.parallel.spread import Spread


def spreads(flows: Mapping[str, Flow], plan: Plan) -> dict[str, Spread]:
    """How the values of each phase lie on ranks. The phases share their weights, so what one needs whole all have."""
    kept: frozenset[str] = frozenset()
    while True:
        found = {phase: Spread(flow, plan, kept) for phase, flow in flows.items()}
        ways = [_ways(spread) for spread in found.values()]
        differ = {
            module
            for module in set().union(*ways)
            if len({way[module] for way in ways if module in way}) > 1
        }
        if differ <= kept:
            return found
        kept |= differ


def _ways(spread: Spread) -> dict[str, tuple[str, ...]]:
    """How each linear layer is split, by its module."""
    found: dict[str, tuple[str, ...]] = {}
    for node in spread.linears:
        module = spread.module(node)
        found[module] = (*found.get(module, ()), f"{spread.way(node)} {spread.portions(node)}")
    return found


def notes(found: Mapping[str, Spread]) -> list[str]:
    """Where plan and graph disagree, and which operators nothing is known of."""
    said = []
    differ = sorted({line for spread in found.values() for line in _disagreements(spread)})
    if differ:
        said.append(
            "the model's tensor-parallel plan and its graph differ, and ops are split as the graph allows: "
            + ", ".join(differ)
        )
    unknown = sorted({name for spread in found.values() for name in spread.unknown})
    if unknown:
        said.append(
            f"how to split {', '.join(unknown)} is not known: what it reads is whole on every rank"
        )
    return said


def _disagreements(spread: Spread) -> Iterator[str]:
    for node in spread.linears:
        module = spread.module(node)
        style, way = spread.plan.style(module), spread.way(node)
        if style and not spread.agrees(node):
            yield f"{spread.plan.pattern(module)} ({style}, here {way or 'whole'})"


__all__ = ["Spread", "notes", "spreads"]
