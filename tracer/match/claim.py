"""What matching produces: claims (nodes that one op stands for), free nodes, primitives, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import sympy
from torch import fx


@dataclass(slots=True, kw_only=True, eq=False)
class Claim:
    """One occurrence of an op in the traced graph: its kind, parameters and dims, and the nodes it stands for.

    `inputs` are the values it reads and `outputs` the nodes that others read from it, in the order of the op's
    definition where a rewrite needs to know; `parameters` are the `get_attr` nodes it owns, `share` the part of
    them that it holds (numerator, denominator) where two ops split one weight. `axes` says of parameters and dims that
    count heads or channels along which axis of which value those lie.
    """

    kind: str
    params: dict[str, Any]
    dims: dict[str, sympy.Expr]
    nodes: list[fx.Node]
    anchor: fx.Node
    inputs: list[fx.Node] = field(default_factory=list)
    parameters: list[fx.Node] = field(default_factory=list)
    name: str = ""
    rewrites: list[str] = field(default_factory=list)
    share: tuple[int, int] = (1, 1)
    axes: dict[str, tuple[fx.Node, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a matcher did not take a node it looked at."""

    node: fx.Node
    op: str
    reason: str


Result = Claim | Refusal | None
Matcher = Callable[..., Result]


@dataclass(slots=True, kw_only=True)
class Matched:
    """The whole graph after matching: every node is in one claim, one free group, or a primitive."""

    flow: Any
    claims: list[Claim]
    free: dict[fx.Node, str]
    primitives: dict[fx.Node, str]
    refusals: dict[fx.Node, list[Refusal]]
    rewrites: list[str] = field(default_factory=list)

    @property
    def owner(self) -> dict[fx.Node, Claim]:
        """The claim of each claimed node."""
        return {node: claim for claim in self.claims for node in claim.nodes}

    def of(self, *kinds: str) -> Iterator[Claim]:
        """Claims of these kinds, in order of execution."""
        return (c for c in self.claims if c.kind in kinds)

    def sort(self) -> None:
        """Order the claims by when they run."""
        self.claims.sort(key=lambda c: self.flow.position(c.anchor))
