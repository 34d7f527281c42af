"""What operators do to values that are dealt to ranks, one function per kind of operator; here: views and moves.

A rule gets the `Spread` of the pass and a node, and returns the state of what the node makes. Where an operator needs
values that no rank has, it calls `spread.blame`: the products whose split caused it are then kept whole.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from tracer.match import targets
from tracer.parallel.state import Partial, Piece, Split, State, repeated, reshaped, section

if TYPE_CHECKING:
    from tracer.parallel.spread import Spread

States = State | list[State]
Rule = Callable[["Spread", fx.Node], States]
_RULES: dict[str, Rule] = {}
ELEMENTWISE = "one result per element"  # the rule of every operator that ATen tags as pointwise

_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
_FREE = ("alias", "detach", "detach_", "contiguous", "clone", "lift_fresh", "dropout", "feature_dropout")  # fmt: skip


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of operators, by their name without namespace and overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
        return function

    return register


def apply(spread: Spread, node: fx.Node) -> States:
    """The state of what a node makes. An operator without a rule needs whole values."""
    name = targets.base_name(node)
    if targets.is_constant(node):
        return None
    found = _RULES.get(name)
    if found is None and targets.is_aten(node) and torch.Tag.pointwise in node.target.tags:
        found = _RULES[ELEMENTWISE]
    if found is None and name in targets.MATHEMATICS:
        found = _RULES[ELEMENTWISE]
    if found is not None:
        # An operator may be called in a form that its rule does not know, which says nothing against the model.
        with contextlib.suppress(TypeError, ValueError, IndexError):
            return found(spread, node)
    if any(isinstance(spread.of(v), Split) for v in node.all_input_nodes):
        spread.unknown.add(targets.full_name(node))
    return whole(spread, node)


def shape(node: Any) -> tuple[int, ...]:
    """The sizes of a node's tensor at the traced workload."""
    found: tuple[int, ...] | None = node.meta.get("sizes")
    if found is None:
        made = node.meta["val"].shape
        found = tuple(d if isinstance(d, int) else int(d.node.hint) for d in made)
        node.meta["sizes"] = found
    return found


def whole(spread: Spread, node: fx.Node) -> State:
    """No rank can do its part: every value that is dealt or summed is needed whole."""
    for value in node.all_input_nodes:
        spread.needs_whole(value, node)
    return None


@rule("skipped", "block_selection", "grouped_linear")
def _whole(spread: Spread, node: fx.Node) -> State:
    """Layers that stand for others, the choice among blocks of keys, rows sorted by expert: known to need all."""
    return whole(spread, node)


def argument(node: fx.Node, at: int, name: str, default: Any) -> Any:
    return node.args[at] if len(node.args) > at else node.kwargs.get(name, default)


def axes(dims: Any, ndim: int) -> set[int]:
    if dims is None or dims == []:
        return set(range(ndim))
    return {int(d) % ndim for d in (dims if isinstance(dims, list | tuple) else [dims])}


@rule(*_FREE)
def _same(spread: Spread, node: fx.Node) -> State:
    return spread.of(node.args[0])


@rule(*_RESHAPES)
def _reshape(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    after = reshaped(state, shape(node.args[0]), shape(node))
    if after is None:
        return spread.blame(state, node)
    if after.pieces is not state.pieces:
        spread.constrain(after)
    return after


@rule("squeeze", "unsqueeze", "transpose", "swapaxes", "permute", "t", "mT", "numpy_T", "movedim")
def _reorder(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    before, after = shape(node.args[0]), shape(node)
    name, ndim = targets.base_name(node), len(before)
    if name == "unsqueeze":
        at = int(node.args[1]) % (ndim + 1)
        return state.at(state.axis + (at <= state.axis))
    if name == "squeeze":
        gone = axes(node.args[1] if len(node.args) > 1 else None, ndim)
        gone = {d for d in gone if before[d] == 1}
        if state.axis in gone:
            return _without_axis(spread, node, state)
        return state.at(state.axis - sum(d < state.axis for d in gone))
    order = _order(name, node, ndim)
    if order is None or len(after) != ndim:
        return spread.blame(state, node)
    return state.at(order.index(state.axis))


def _order(name: str, node: fx.Node, ndim: int) -> list[int] | None:
    order = list(range(ndim))
    if name == "permute":
        return [int(d) % ndim for d in node.args[1]]
    if name == "numpy_T":
        return order[::-1]
    if name in ("transpose", "swapaxes", "t", "mT"):
        a, b = (
            (int(d) % ndim for d in node.args[1:3]) if len(node.args) > 2 else (ndim - 2, ndim - 1)
        )
        order[a], order[b] = order[b], order[a]
        return order
    return None


def _without_axis(spread: Spread, node: fx.Node, state: Split) -> State:
    """An axis of one element goes: what it held is dealt along the next, if it came out of a product in that order."""
    after = shape(node)
    (piece,) = state.pieces
    if state.axis < len(after) and piece.sources:
        width = after[state.axis]
        features = min(high - low for _, low, high in piece.sources)
        if features % width == 0 and features > 1:
            found = Split(state.axis, (Piece(width, width, piece.sources),))
            spread.constrain(found)
            return found
    return spread.blame(state, node)


@rule("expand", "expand_as", "broadcast_to")
def _expand(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    before, after = shape(node.args[0]), shape(node)
    axis = state.axis + len(after) - len(before)
    if before[state.axis] != after[axis]:
        return spread.blame(state, node)
    behind = state.axis + 1
    if behind < len(before) and before[behind] == 1 < after[axis + 1]:
        state = repeated(state)
    return state.at(axis)


@rule("repeat")
def _repeat(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    axis = state.axis + len(shape(node)) - len(shape(node.args[0]))
    return state.at(axis) if node.args[1][axis] == 1 else spread.blame(state, node)


@rule("repeat_interleave")
def _repeat_interleave(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    times, axis = node.args[1], argument(node, 2, "dim", None)
    if not isinstance(times, int) or axis is None:
        return spread.blame(state, node)
    if int(axis) % len(shape(node)) != state.axis:
        return state
    pieces = tuple(Piece(p.size * times, p.units, p.sources, p.repeats) for p in state.pieces)
    return repeated(Split(state.axis, pieces, state.outer))


@rule("slice", "narrow")
def _slice(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    before, axis = shape(node.args[0]), int(argument(node, 1, "dim", 0)) % len(shape(node))
    length = before[axis]
    if axis != state.axis or shape(node)[axis] == length:
        return state
    start, step = int(argument(node, 2, "start", 0) or 0), int(argument(node, 4, "step", 1))
    if step != 1:
        return spread.blame(state, node)
    start = max(start + length, 0) if start < 0 else start
    return _section(spread, node, state, start, start + shape(node)[axis], length)


def _section(
    spread: Spread, node: fx.Node, state: Split, start: int, stop: int, length: int
) -> State:
    found = section(state, start, stop, length)
    if found is None:
        return spread.blame(state, node)
    spread.constrain(found)
    return spread.unless_whole(found)


@rule("select")
def _select(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    before = shape(node.args[0])
    axis = int(node.args[1]) % len(before)
    if axis != state.axis:
        return state.at(state.axis - (axis < state.axis))
    index = int(node.args[2]) % before[axis]
    return _one_of(spread, node, state, index, before[axis], shape(node))


def _one_of(
    spread: Spread, node: fx.Node, state: Split, index: int, length: int, after: Sequence[int]
) -> State:
    """One element of the split axis, which goes: its inside is dealt along the next axis."""
    found = section(state, index, index + 1, length)
    if found is None or len(found.pieces) != 1 or found.axis >= len(after):
        return spread.blame(state, node)
    (piece,) = found.pieces
    width = after[found.axis]
    if not piece.sources or any((high - low) % width for _, low, high in piece.sources):
        return spread.blame(state, node)
    result = Split(found.axis, (Piece(width, width, piece.sources),))
    spread.constrain(result)
    return spread.unless_whole(result)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def _parts(spread: Spread, node: fx.Node) -> States:
    state, parts = spread.of(node.args[0]), node.meta["val"]
    if not isinstance(state, Split):
        return [state] * len(parts)
    before = shape(node.args[0])
    axis = int(argument(node, 2, "dim", 0)) % len(before)
    if axis != state.axis:
        return [state] * len(parts)
    found: list[State] = []
    start = 0
    for part in parts:
        stop = start + int(part.shape[axis])
        found.append(_section(spread, node, state, start, stop, before[axis]))
        start = stop
    return found


@rule("unbind")
def _unbind(spread: Spread, node: fx.Node) -> States:
    state, parts = spread.of(node.args[0]), node.meta["val"]
    if not isinstance(state, Split):
        return [state] * len(parts)
    before = shape(node.args[0])
    axis = int(argument(node, 1, "dim", 0)) % len(before)
    if axis != state.axis:
        return [state.at(state.axis - (axis < state.axis))] * len(parts)
    after = before[:axis] + before[axis + 1 :]
    return [_one_of(spread, node, state, i, len(parts), after) for i in range(len(parts))]


@rule("getitem")
def _getitem(spread: Spread, node: fx.Node) -> State:
    states = spread.all_of(node.args[0])
    return states[int(node.args[1])] if isinstance(states, list) else states


@rule("cat", "concat", "concatenate")
def _cat(spread: Spread, node: fx.Node) -> State:
    values = [v for v in node.args[0] if len(shape(v)) == len(shape(node))]
    states = [spread.of(v) for v in values]
    splits = [s for s in states if isinstance(s, Split)]
    if any(isinstance(s, Partial) for s in states):
        if all(isinstance(s, Partial) for s in states):
            return spread.merge([s for s in states if isinstance(s, Partial)])
        for value, state in zip(values, states, strict=True):
            if isinstance(state, Partial):
                spread.reduce(value)
    if not splits:
        return None
    axis = int(argument(node, 1, "dim", 0)) % len(shape(node))
    along = splits[0].axis
    if any(s.axis != along for s in splits):
        return spread.blame_all(splits, node)
    if axis != along:
        return spread.together(node, list(zip(values, states, strict=True)))
    return _concatenated(spread, node, values, states, axis)


def _concatenated(
    spread: Spread, node: fx.Node, values: Sequence[fx.Node], states: Sequence[State], axis: int
) -> State:
    """Pieces behind each other; they count features alike only where every part does."""
    splits = [s for s in states if isinstance(s, Split)]
    lengths = [shape(v)[axis] for v in values]
    grains = {length // s.size for s, length in zip(states, lengths, strict=True) if isinstance(s, Split)}  # fmt: skip
    if any(s.outer > 1 for s in splits):
        return spread.blame_all(splits, node)
    grain = math.gcd(*grains)
    pieces: list[Piece] = []
    for state, length in zip(states, lengths, strict=True):
        if isinstance(state, Split):
            wider = length // state.size // grain
            pieces += [Piece(p.size * wider, p.units, p.sources, p.repeats) for p in state.pieces]
        elif length % grain:
            return spread.blame_all(splits, node)
        else:
            pieces.append(Piece(length // grain, length // grain))
    return Split(axis, tuple(pieces))


@rule("stack")
def _stack(spread: Spread, node: fx.Node) -> State:
    states = [spread.of(v) for v in node.args[0]]
    at = int(argument(node, 1, "dim", 0)) % len(shape(node))
    moved = [s.at(s.axis + (at <= s.axis)) if isinstance(s, Split) else s for s in states]
    return spread.together(node, list(zip(node.args[0], moved, strict=True)))


@rule("constant_pad_nd", "pad")
def _pad(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    same = shape(node)[state.axis] == shape(node.args[0])[state.axis]
    return state if same else spread.blame(state, node)


@rule("view_as_complex", "view_as_real")
def _complex(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    kept = len(shape(node)) - (targets.base_name(node) == "view_as_real")
    pair = isinstance(state, Split) and state.axis >= kept
    return spread.blame(state, node) if pair else state


@rule("tril", "triu")
def _triangle(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    cut = isinstance(state, Split) and state.axis >= len(shape(node)) - 2
    return spread.blame(state, node) if cut else state
