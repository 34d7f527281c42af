"""Products of two values as attention uses them, and where an axis goes on the way from one to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from tracer.match import targets
from tracer.match.flow import Flow

_RESHAPES = frozenset([
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as",
    "expand", "expand_as",
])  # fmt: skip
_KEEPING = frozenset([
    "contiguous", "clone", "alias", "detach", "detach_", "dropout", "feature_dropout", "lift_fresh",
])  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product of two factors: the axis of the result that each alone brings (None: none or several), the axis of
    each that is summed over, and what `baddbmm` adds.
    """

    node: fx.Node
    factors: tuple[fx.Node, fx.Node]
    own: tuple[int | None, int | None]
    summed: tuple[int, int]
    added: fx.Node | None = None


def product(flow: Flow, node: fx.Node) -> Product | None:
    """The node as a product of two factors that sums over one axis; None where it is none."""
    name = targets.full_name(node)
    if name == "aten.einsum":
        return _einsum(node)
    if name not in ("aten.matmul", "aten.bmm", "aten.baddbmm"):
        return None
    added = node.args[0] if name == "aten.baddbmm" and node.kwargs.get("beta", 1) != 0 else None
    a, b = node.args[1:3] if name == "aten.baddbmm" else node.args[:2]
    left, right, made = (len(flow.shape(x)) for x in (a, b, node))
    if min(left, right) < 2:
        return None
    return Product(
        node=node,
        factors=(a, b),
        own=(made - 2, made - 1),
        summed=(left - 1, right - 2),
        added=added,
    )


def _einsum(node: fx.Node) -> Product | None:
    terms, _, result = str(node.args[0]).replace(" ", "").partition("->")
    letters, operands = terms.split(","), node.args[1]
    if len(operands) != 2 or "." in terms or not result:
        return None
    first, second = (set(t) for t in letters)
    summed = (first | second) - set(result)
    if len(summed) != 1 or not summed <= first & second:
        return None
    (letter,) = summed
    alone = ([c for c in result if c in mine] for mine in (first - second, second - first))
    own = [result.index(letters[0]) if len(letters) == 1 else None for letters in alone]
    return Product(
        node=node,
        factors=(operands[0], operands[1]),
        own=(own[0], own[1]),
        summed=(letters[0].index(letter), letters[1].index(letter)),
    )


def is_layout(node: fx.Node) -> bool:
    """Whether the node hands on the elements of its first argument, all of them once, in whatever layout or width."""
    if not targets.is_aten(node) or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    name = targets.base_name(node)
    if name in ("expand", "expand_as"):
        return node.meta["val"].numel() == node.args[0].meta["val"].numel()
    return name in _RESHAPES | _KEEPING | targets.CASTS or _order(node) is not None


def _order(node: fx.Node) -> list[int] | None:
    """The axes of a transposition; None for other nodes."""
    name, ndim = targets.base_name(node), node.args[0].meta["val"].dim()
    order = list(range(ndim))
    if name == "permute":
        return [int(d) % ndim for d in node.args[1]]
    if name in ("transpose", "swapaxes"):
        a, b = (int(d) % ndim for d in node.args[1:3])
    elif name in ("t", "mT"):
        a, b = ndim - 2, ndim - 1
    else:
        return order[::-1] if name == "numpy_T" else None
    order[a], order[b] = order[b], order[a]
    return order


def moved(node: fx.Node, axis: int) -> int | None:
    """Where an axis of a layout node's argument stands in its result; None where it is cut or joined with others."""
    order = _order(node)
    if order is not None:
        return order.index(axis)
    before, after = (tuple(x.meta["val"].shape) for x in (node.args[0], node))
    if targets.base_name(node) not in _RESHAPES:
        return axis
    inner = math.prod(before[axis + 1 :])
    for at in reversed(range(len(after))):
        if after[at] == before[axis] and math.prod(after[at + 1 :]) == inner:
            return at
    return None
