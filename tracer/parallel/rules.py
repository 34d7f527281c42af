"""What each operator does to values that are dealt to ranks: one function per kind of operator.

A rule gets the `Spread` of the pass and a node, and returns the state of what the node makes. Where an operator needs
values that no rank has, it calls `spread.blame`: the products whose split caused it are then kept whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from tracer.match import targets
from tracer.parallel.state import Partial, Piece, Split, State, joined, reshaped, section

if TYPE_CHECKING:
    from tracer.parallel.spread import Spread

States = State | list[State]
Rule = Callable[["Spread", fx.Node], States]
_RULES: dict[str, Rule] = {}

_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
_FREE = ("alias", "detach", "detach_", "contiguous", "clone", "lift_fresh", "dropout", "feature_dropout")  # fmt: skip
#: Operators that work along one axis, by the place of that axis among their arguments.
_ALONG = {
    "cumsum": 1, "cumprod": 1, "softmax": 1, "_softmax": 1, "log_softmax": 1, "_log_softmax": 1, "sort": 1,
    "topk": 2, "flip": 1, "roll": 2, "cummax": 1, "argsort": 1, "glu": 1, "index_select": 1,
    "gather": 1, "scatter": 1, "scatter_": 1, "take_along_dim": 2, "logcumsumexp": 1, "index_copy": 1,
}  # fmt: skip
_LAST_BY_DEFAULT = ("sort", "topk", "argsort", "glu")
_REDUCTIONS = (
    "sum", "mean", "amax", "amin", "max", "min", "prod", "std", "var", "var_mean", "logsumexp", "argmax", "argmin",
    "linalg_vector_norm", "norm", "any", "all",
)  # fmt: skip
_NORMS = {"layer_norm": 1, "rms_norm": 1, "native_layer_norm": 1}
_WRITES = ("copy_", "index_copy_", "index_put_", "slice_scatter", "index_put", "scatter_reduce_")
#: What keeps a value that is a sum of ranks' parts one: it may be done to each part.
_LINEAR = ("neg", "to", "_to_copy", "type_as", "float", "half", "bfloat16")
_SCALING = ("mul", "mul_", "div", "div_", "multiply", "true_divide")
_ADDING = ("add", "add_", "sub", "sub_")


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
        found = elementwise
    if found is None and name in targets.MATHEMATICS:
        found = elementwise
    if found is None:
        if any(isinstance(spread.of(v), Split) for v in node.all_input_nodes):
            spread.unknown.add(targets.full_name(node))
        return whole(spread, node)
    return found(spread, node)


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


def _argument(node: fx.Node, at: int, name: str, default: Any) -> Any:
    return node.args[at] if len(node.args) > at else node.kwargs.get(name, default)


def _axes(dims: Any, ndim: int) -> set[int]:
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
        gone = _axes(node.args[1] if len(node.args) > 1 else None, ndim)
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
        a, b = (int(d) % ndim for d in node.args[1:3]) if len(node.args) > 2 else (ndim - 2, ndim - 1)
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
    return state.at(axis) if before[state.axis] == after[axis] else spread.blame(state, node)


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
    times, axis = node.args[1], _argument(node, 2, "dim", None)
    if not isinstance(times, int) or axis is None:
        return spread.blame(state, node)
    if int(axis) % len(shape(node)) != state.axis:
        return state
    pieces = tuple(Piece(p.size * times, p.units, p.sources) for p in state.pieces)
    return Split(state.axis, pieces, state.outer)


@rule("slice", "narrow")
def _slice(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return state
    before, axis = shape(node.args[0]), int(_argument(node, 1, "dim", 0)) % len(shape(node))
    length = before[axis]
    if axis != state.axis or shape(node)[axis] == length:
        return state
    start, step = int(_argument(node, 2, "start", 0) or 0), int(_argument(node, 4, "step", 1))
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
    axis = int(_argument(node, 2, "dim", 0)) % len(before)
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
    axis = int(_argument(node, 1, "dim", 0)) % len(before)
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
                spread.reduce(value, node)
    if not splits:
        return None
    axis = int(_argument(node, 1, "dim", 0)) % len(shape(node))
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
            pieces += [Piece(p.size * wider, p.units, p.sources) for p in state.pieces]
        elif length % grain:
            return spread.blame_all(splits, node)
        else:
            pieces.append(Piece(length // grain, length // grain))
    return Split(axis, tuple(pieces))


@rule("stack")
def _stack(spread: Spread, node: fx.Node) -> State:
    states = [spread.of(v) for v in node.args[0]]
    at = int(_argument(node, 1, "dim", 0)) % len(shape(node))
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
    pair = isinstance(state, Split) and state.axis >= len(shape(node)) - (targets.base_name(node) == "view_as_real")  # fmt: skip
    return spread.blame(state, node) if pair else state


@rule("tril", "triu")
def _triangle(spread: Spread, node: fx.Node) -> State:
    state = spread.of(node.args[0])
    cut = isinstance(state, Split) and state.axis >= len(shape(node)) - 2
    return spread.blame(state, node) if cut else state


@rule(*_ALONG)
def _along(spread: Spread, node: fx.Node) -> States:
    name, value = targets.base_name(node), node.args[0]
    state, ndim = spread.of(value), len(shape(value))
    several = isinstance(node.meta["val"], list | tuple)
    if isinstance(state, Partial):
        spread.reduce(value, node)
        state = None
    default = -1 if name in _LAST_BY_DEFAULT else None
    dims = _argument(node, _ALONG[name], "dims" if name in ("flip", "roll") else "dim", default)
    if isinstance(state, Split) and state.axis in _axes(dims, ndim):
        state = spread.blame(state, node)
    others = [v for v in node.all_input_nodes if v is not value]
    for other in others:
        beside = spread.of(other)
        if isinstance(beside, Split) and (not isinstance(state, Split) or beside.axis != state.axis):
            spread.needs_whole(other, node)
    return [state] * len(node.meta["val"]) if several else state


@rule(*_REDUCTIONS)
def _reduction(spread: Spread, node: fx.Node) -> States:
    value = node.args[0]
    several = isinstance(node.meta["val"], list | tuple)
    state = spread.of(value)
    ndim = len(shape(value))
    if isinstance(state, Partial):
        spread.reduce(value, node)
        state = None
    if isinstance(state, Split):
        at = 2 if targets.base_name(node) in ("linalg_vector_norm", "norm") else 1
        gone = _axes(_argument(node, at, "dim", None), ndim)
        made = node.meta["val"][0] if several else node.meta["val"]
        if state.axis in gone:
            if targets.base_name(node) == "sum" and (of := spread.of_stacks(state)):
                return Partial(of)
            state = spread.blame(state, node)
        elif made.dim() < ndim:
            state = state.at(state.axis - sum(d < state.axis for d in gone))
    return [state] * len(node.meta["val"]) if several else state


@rule(*_NORMS)
def _norm(spread: Spread, node: fx.Node) -> States:
    value = node.args[0]
    state, ndim = spread.of(value), len(shape(value))
    several = isinstance(node.meta["val"], list | tuple)
    if isinstance(state, Partial):
        spread.reduce(value, node)
        state = None
    if isinstance(state, Split) and state.axis >= ndim - len(node.args[1]):
        state = spread.blame(state, node)
    return [state, None, None][: len(node.meta["val"])] if several else state


@rule("group_norm")
def _group_norm(spread: Spread, node: fx.Node) -> State:
    """(N, C, ...) in groups of channels: whole groups stay together."""
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return whole(spread, node)
    groups = int(node.args[1])
    if state.axis != 1 or state.outer > 1 or len(state.pieces) != 1 or state.size % groups:
        return spread.blame(state, node)
    (piece,) = state.pieces
    found = Split(1, (Piece(piece.size, math.gcd(piece.units, groups), piece.sources),))
    spread.constrain(found)
    return found


@rule(*_WRITES)
def _write(spread: Spread, node: fx.Node) -> State:
    """What is written decides how the memory lies: caches are whole until something is put into them."""
    target = node.args[0]
    written = [v for v in node.all_input_nodes if v is not target]
    values = [v for v in written if v.meta["val"].is_floating_point()]
    for value in values:
        if isinstance(spread.of(value), Partial):
            spread.reduce(value, node)
    old = spread.of(target)
    if len(shape(spread.flow.root(target))) != len(shape(target)):
        return whole(spread, node)
    state = next((s for v in values if isinstance(s := spread.of(v), Split)), None)
    if state is not None and len(shape(values[0])) == len(shape(target)):
        if shape(target)[state.axis] == shape(values[0])[state.axis]:
            spread.memory(target, state)
            return state
        return spread.blame(state, node)
    if state is not None:
        return spread.blame(state, node)
    return old


def elementwise(spread: Spread, node: fx.Node) -> State:
    """One result per element: dealt like its inputs, of which whole ones are sliced."""
    values = [v for v in node.all_input_nodes if isinstance(v.meta.get("val"), torch.Tensor)]
    states = [spread.of(v) for v in values]
    sums = [s for s in states if isinstance(s, Partial)]
    if sums and (kept := _linear_in(spread, node, values, states)):
        return kept
    for value, state in zip(values, states, strict=True):
        if isinstance(state, Partial):
            spread.reduce(value, node)
    pairs = [(v, s if isinstance(s, Split) else None) for v, s in zip(values, states, strict=True)]
    found = spread.broadcast(node, pairs)
    if found is not None and targets.mutated(node):
        spread.memory(node.args[0], found)
    return found


for _name in (*_LINEAR, "square", "where", "masked_fill", "masked_fill_", "softplus", "silu"):
    _RULES[_name] = elementwise


def _linear_in(
    spread: Spread, node: fx.Node, values: Sequence[fx.Node], states: Sequence[State]
) -> Partial | None:
    """The sum of partial sums, and what scales them, are partial sums again."""
    name = targets.base_name(node)
    sums = [s for s in states if isinstance(s, Partial)]
    if name in _LINEAR or (name in _ADDING and len(sums) == len(node.all_input_nodes) == 2):
        return spread.merge(sums)
    if name in _SCALING and len(sums) == 1 and not any(isinstance(s, Split) for s in states):
        divides_by = name in ("div", "div_", "true_divide") and isinstance(states[-1], Partial)
        if len(states) == 1 or not divides_by:
            return sums[0]
    return None


@rule("conv1d")
def _convolution(spread: Spread, node: fx.Node) -> State:
    """One filter per channel leaves channels where they are; any other mixes them."""
    state = spread.of(node.args[0])
    if not isinstance(state, Split):
        return whole(spread, node)
    channels = shape(node.args[0])[1]
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return state if groups == channels and state.axis == 1 else spread.blame(state, node)


@rule("embedding")
def _embedding(spread: Spread, node: fx.Node) -> State:
    return Partial((node,)) if spread.is_vocabulary(node) else None
