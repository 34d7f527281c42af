"""What arithmetic does to values that are dealt to ranks: per element, along an axis, over an axis, in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import fx

from tracer.match import targets
from tracer.parallel.rules import ELEMENTWISE, States, argument, axes, rule, shape, whole
from tracer.parallel.state import Partial, Piece, Split, State

if TYPE_CHECKING:
    from tracer.parallel.spread import Spread

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


@rule(*_ALONG)
def _along(spread: Spread, node: fx.Node) -> States:
    name, value = targets.base_name(node), node.args[0]
    state, ndim = spread.of(value), len(shape(value))
    several = isinstance(node.meta["val"], list | tuple)
    if isinstance(state, Partial):
        spread.reduce(value)
        state = None
    default = -1 if name in _LAST_BY_DEFAULT else None
    dims = argument(node, _ALONG[name], "dims" if name in ("flip", "roll") else "dim", default)
    if isinstance(state, Split) and state.axis in axes(dims, ndim):
        state = spread.blame(state, node)
    others = [v for v in node.all_input_nodes if v is not value]
    for other in others:
        beside = spread.of(other)
        if isinstance(beside, Split) and (
            not isinstance(state, Split) or beside.axis != state.axis
        ):
            spread.needs_whole(other, node)
    return [state] * len(node.meta["val"]) if several else state


@rule(*_REDUCTIONS)
def _reduction(spread: Spread, node: fx.Node) -> States:
    value = node.args[0]
    if len(node.args) > 1 and isinstance(node.args[1], fx.Node):  # the larger of two values
        return elementwise(spread, node)
    several = isinstance(node.meta["val"], list | tuple)
    state = spread.of(value)
    ndim = len(shape(value))
    if isinstance(state, Partial):
        spread.reduce(value)
        state = None
    if isinstance(state, Split):
        at = 2 if targets.base_name(node) in ("linalg_vector_norm", "norm") else 1
        gone = axes(argument(node, at, "dim", None), ndim)
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
        spread.reduce(value)
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
            spread.reduce(value)
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


@rule(ELEMENTWISE, *_LINEAR, "square", "where", "masked_fill", "masked_fill_", "softplus", "silu")
def elementwise(spread: Spread, node: fx.Node) -> State:
    """One result per element: dealt like its inputs, of which whole ones are sliced."""
    values = [v for v in node.all_input_nodes if isinstance(v.meta.get("val"), torch.Tensor)]
    states = [spread.of(v) for v in values]
    sums = [s for s in states if isinstance(s, Partial)]
    if sums and (kept := _linear_in(spread, node, states)):
        return kept
    for value, state in zip(values, states, strict=True):
        if isinstance(state, Partial):
            for other in states:
                if isinstance(other, Split):
                    spread.clash(state, other, node)
            spread.reduce(value)
    pairs = [(v, s if isinstance(s, Split) else None) for v, s in zip(values, states, strict=True)]
    found = spread.broadcast(node, pairs)
    if isinstance(found, Split) and targets.mutated(node):
        spread.memory(node.args[0], found)
    return found


def _linear_in(spread: Spread, node: fx.Node, states: Sequence[State]) -> Partial | None:
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
