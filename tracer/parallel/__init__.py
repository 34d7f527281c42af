"""How the ops of a trace are split over tensor-parallel ranks: read off the model's plan and its graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tracer.match.flow import Flow
from tracer.parallel.linears import Place
from tracer.parallel.plan import Plan
from tracer.parallel.spread import Spread


def spreads(flows: Mapping[str, Flow], plan: Plan) -> dict[str, Spread]:
    """How the values of each phase lie on ranks. The phases share their weights, so what one needs whole all have."""
    found: dict[str, Spread] = {}
    kept: set[Place] = set()
    while True:
        for phase, flow in flows.items():
            if phase not in found or not kept <= found[phase].kept:
                found[phase] = Spread(flow, plan, kept)
                kept |= {place for place, way in _ways(found[phase]).items() if not way}
        ways = [_ways(spread) for spread in found.values()]
        differ = {
            place
            for place in set().union(*ways)
            if len({way[place] for way in ways if place in way}) > 1
        }
        if differ <= kept and all(
            kept <= spread.kept | _whole(spread) for spread in found.values()
        ):
            return found
        kept |= differ


def _ways(spread: Spread) -> dict[Place, str]:
    """How each linear layer is split; empty where it is not."""
    return {
        spread.places[node]: way and f"{way} {spread.portions(node)}"
        for node in spread.linears
        for way in [spread.way(node)]
    }


def _whole(spread: Spread) -> set[Place]:
    return {place for place, way in _ways(spread).items() if not way}


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
