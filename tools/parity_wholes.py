"""Prices of ours where a table has the whole module that ops are parts of: the module's price, dealt to its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from parity_sites import within

from oplib.op import Op
from perfdb.modules import VAGUE, find_modules

if TYPE_CHECKING:
    from parity_pairs import Cost

SENT = ("all_reduce", "all_gather", "all_to_all", "reduce_scatter", "p2p")
MEASURED = ("measured", "interpolated")


def dealt(
    costs: Sequence[Cost], ops: Sequence[Op], phase: str, price: Callable[[Op], Cost]
) -> list[Cost]:
    """The costs of a phase, those of a measured module's parts scaled so that they sum up to what the module takes.

    `ops` is the list that the costs are of, pointwise ops included, `price` the cost of an op.
    """
    found = list(costs)
    for candidates in find_modules(ops, phase):
        inside = [i for i, c in enumerate(found) if _inside(c, candidates.path, candidates.layer)]
        for module in candidates.found:
            whole = price(module.op)
            told = whole.origin in MEASURED and whole.uncertainty <= VAGUE
            if told and len(module.parts) == len(inside):
                for i, part in zip(inside, _shared(whole, [found[i] for i in inside]), strict=True):
                    found[i] = part
                break
    return found


def _shared(whole: Cost, parts: Sequence[Cost]) -> list[Cost]:
    """The parts with what the whole takes dealt to them as they take it apart."""
    now, mean = (sum(getattr(part, field) for part in parts) for field in ("ms", "mean_ms"))
    return [
        replace(
            part,
            ms=part.ms * whole.ms / now,
            mean_ms=part.mean_ms * whole.mean_ms / mean,
            origin=whole.origin,
            uncertainty=whole.uncertainty,
            whole=whole.op.op,
        )
        for part in parts
    ]


def _inside(cost: Cost, path: str, layer: str) -> bool:
    return cost.op.layer == layer and within(cost.line.where, {path}) and cost.line.kind not in SENT
