"""Selections that reach an attention through its mask: which keys it may see is data, chosen by scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sympy
from torch import fx

from oplib.symbols import P, S
from tracer.match import targets
from tracer.match.flow import Flow, Role

_CHOICES = frozenset(["aten.topk", "trace_model.block_selection"])
_SCATTERS = frozenset(["scatter", "scatter_", "scatter_add", "scatter_add_"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The node that chooses, the keys that it leaves each query, and how many tokens each of them stands for.

    `tail` says that the mask shows the tokens behind the last whole block too.
    """

    node: fx.Node
    keys: sympy.Expr
    block: int
    tail: bool


def selection(flow: Flow, mask: fx.Node | None) -> Selection | None:
    """The one choice that a mask of data is made of, if there is one."""
    if mask is None or flow.role[mask] is not Role.DATA:
        return None
    nodes = list(_of_mask(flow, mask))
    found = [n for n in nodes if targets.full_name(n) in _CHOICES]
    if len(found) != 1:
        return None
    keys, block = _chosen(flow, found[0])
    shown = {flow.shape(n.args[2])[-1] for n in nodes if targets.base_name(n) in _SCATTERS}
    tail = block > 1 and shown == {keys * block + block - 1}
    return Selection(node=found[0], keys=keys, block=block, tail=tail)


def _chosen(flow: Flow, node: fx.Node) -> tuple[sympy.Expr, int]:
    """How many keys a choice leaves, and the tokens that each stands for."""
    if targets.full_name(node) == "trace_model.block_selection":
        _, _, ratio, topk = node.args
        return sympy.Integer(topk), int(ratio)
    keys = flow.shape(next(iter(node.users)))[-1]
    return keys, key_ratio(flow, flow.shape(node.args[0])[-1]) or 1


def key_ratio(flow: Flow, keys: sympy.Expr) -> int | None:
    """How many tokens each of `keys` compressed keys stands for: r where after n tokens there are ⌊n/r⌋ of them.

    A trace knows them as ⌊(p + s)/r⌋, or, where rests of blocks are work of their own, as ⌊p/r⌋ + ⌊s/r⌋ and, where
    cached and new tokens close one more block at the workload that it was made at, one more.
    """
    divisors = {f.args[0].as_numer_denom()[1] for f in keys.atoms(sympy.floor)}
    if len(divisors) != 1:
        return None
    (ratio,) = divisors
    surplus = set()
    for cached, new in ((7, 3), (40, 11)):
        tokens = 1 if flow.trace.phase == "generation" else new * ratio
        found = keys.subs({P: cached * ratio, S: tokens})
        surplus.add(found - (cached * ratio + tokens) // ratio)
    return int(ratio) if surplus in ({0}, {1}) else None


def _of_mask(flow: Flow, mask: fx.Node) -> Iterator[fx.Node]:
    """Nodes of data that a mask is made of, back to a selection; what a constant took its form from is not one."""
    stack, seen = [mask], set()
    while stack:
        node = stack.pop()
        if node in seen or node.op != "call_function" or flow.role[node] is not Role.DATA:
            continue
        seen.add(node)
        if targets.full_name(node) in _CHOICES:
            yield node
        elif (targets.is_view(node) or targets.is_pointwise(node)) and not targets.is_constant(
            node
        ):
            yield node
            stack.extend(flow.inputs[node])


def mask_nodes(flow: Flow, mask: fx.Node | None, attention: fx.Node) -> list[fx.Node]:
    """Pointwise nodes that make the mask of this attention and nothing else."""
    if mask is None or flow.role[mask] is not Role.DATA:
        return []
    found = {n for n in _of_mask(flow, mask) if targets.is_pointwise(n)}
    while outside := {n for n in found if flow.readers([n]) - found - {attention}}:
        found -= outside
    return sorted(found, key=flow.position)


def selection_limit(selected: sympy.Expr, keys: sympy.Expr) -> int | None:
    """How many keys a selection leaves at most; 0 where it is wider than all `keys` that there are, None where it
    grows with the length in another way.
    """
    if selected.is_Integer:
        return int(selected)
    return 0 if sympy.expand(selected - keys) == 0 else None
