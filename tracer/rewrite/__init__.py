"""Lowerings: from the ops as written to the ops as run.

Each file holds one rewrite: a function that changes the claims of a matched graph in place and returns how
often it fired. A rewrite says in which lowerings (`oplib.lowerings`) it takes part and after which other rewrites it
runs. `eager` has none.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tracer.match.claim import Matched

Apply = Callable[[Matched], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A registered rewrite. `order` places it: patterns of ops below 50, fusion of what is left above."""

    name: str
    apply: Apply
    lowerings: tuple[str, ...]
    order: int


_REWRITES: dict[str, Rewrite] = {}


def rewrite(name: str, *, lowerings: tuple[str, ...], order: int) -> Callable[[Apply], Apply]:
    """Register a rewrite."""

    def register(function: Apply) -> Apply:
        if name in _REWRITES:
            raise RuntimeError(
                f"two rewrites are named {name!r}: {_REWRITES[name].apply.__module__} and {function.__module__}"
            )
        _REWRITES[name] = Rewrite(name=name, apply=function, lowerings=lowerings, order=order)
        return function

    return register


def rewrites(lowering: str) -> list[Rewrite]:
    """The rewrites of a lowering, in the order they run."""
    chosen = [r for r in _REWRITES.values() if lowering in r.lowerings]
    return sorted(chosen, key=lambda r: (r.order, r.name))


def lower(matched: Matched, lowering: str, *, without: Collection[str] = ()) -> Matched:
    """Apply a lowering in place. `matched.rewrites` lists those that fired, with how often."""
    for rule in rewrites(lowering):
        fired = 0 if rule.name in without else rule.apply(matched)
        if fired:
            matched.rewrites.append(rule.name)
    matched.sort()
    return matched


for _info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name):
    importlib.import_module(f"{__name__}.{_info.name}")
