"""What products and boundaries do to values that are dealt to ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from tracer import boundaries
from tracer.match import targets
from tracer.match.gemm import weight_form
from tracer.parallel.rules import States, rule, shape
from tracer.parallel.state import Partial, Piece, Split, State

if TYPE_CHECKING:
    from tracer.parallel.spread import Spread


@rule("linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum")
def product(spread: Spread, node: fx.Node) -> State:
    """A linear layer deals its output features or sums over dealt input features; other products keep their batch."""
    form = weight_form(spread.flow, node)
    if form is None:
        return _of_two(spread, node)
    x = node.args[form[0]]
    state = spread.of(x)
    if isinstance(state, Partial):
        spread.reduce(x)
        state = None
    made = spread.feature_axis[node]
    summed = len(shape(x)) - 1 if made == len(shape(node)) - 1 else len(shape(x)) - 2
    if isinstance(state, Split):
        if state.axis == summed:
            spread.rows[node] = state
            return Partial((node,), state.sources)
        if summed != len(shape(x)) - 1:
            return spread.blame(state, node)
        spread.batches[node] = ("m", state)
        return state
    if spread.takes_slice(node):
        width = shape(x)[summed]
        spread.rows[node] = Split(summed, (Piece(width, width),))
        return Partial((node,))
    if node in spread.columns and node not in spread.gathered:
        width = spread.features(node)
        return Split(made, (Piece(width, width, ((node, 0, width),)),))
    return None


def _of_two(spread: Spread, node: fx.Node) -> State:
    """Two activations, or one and a stack of matrices: dealt along the batch, or along an axis of the result."""
    factors = [v for v in node.all_input_nodes if v.meta["val"].dim() > 1][-2:]
    for value in node.all_input_nodes:
        if isinstance(spread.of(value), Partial):
            spread.reduce(value)
    splits = [(v, s) for v in factors if isinstance(s := spread.of(v), Split)]
    if not splits and node in spread.stacks:
        made = shape(node)[0]
        own = Split(0, (Piece(made, made, ((node, 0, made),)),))
        spread.batches[node] = ("batch", own)
        return own
    if not splits:
        return None
    found: list[tuple[str, int]] = []
    for value, state in splits:
        at = _placed(node, value, state)
        if at is None:
            return spread.blame_all([s for _, s in splits], node)
        found.append(at)
    if len({axis for _, axis in found}) > 1:
        return spread.blame_all([s for _, s in splits], node)
    spread.batches[node] = (found[0][0], splits[0][1])
    return spread.together(
        node, [(v, s.at(a)) for (v, s), (_, a) in zip(splits, found, strict=True)]
    )


def _placed(node: fx.Node, value: fx.Node, state: Split) -> tuple[str, int] | None:
    """Which axis of the result the split axis of a factor becomes, and what that is to the product."""
    ndim, made = len(shape(value)), len(shape(node))
    if targets.base_name(node) == "einsum":
        return _in_equation(node, value, state)
    first = value is node.args[1 if targets.base_name(node) in ("baddbmm", "addmm") else 0]
    axis = state.axis + made - ndim
    if state.axis < ndim - 2:
        return "batch", axis
    if targets.base_name(node) == "linear" and not first:
        return ("n", made - 1) if state.axis == ndim - 2 else None
    if first:
        return ("m", made - 2) if state.axis == ndim - 2 else None
    return ("n", made - 1) if state.axis == ndim - 1 else None


def _in_equation(node: fx.Node, value: fx.Node, state: Split) -> tuple[str, int] | None:
    terms, _, result = str(node.args[0]).replace(" ", "").partition("->")
    letters = terms.split(",")
    operands: Any = node.args[1]
    if "." in terms or len(operands) != len(letters):
        return None
    letter = letters[list(operands).index(value)][state.axis]
    if letter not in result:
        return None
    others = [t for t, v in zip(letters, operands, strict=True) if v is not value]
    return ("batch" if letter in "".join(others) else "n"), result.index(letter)


@rule("experts")
def _experts(spread: Spread, node: fx.Node) -> State:
    """Each rank runs its experts, or its part of each, on whole tokens: the results are summands."""
    for value in node.all_input_nodes[:3]:
        spread.needs_whole(value, node)
    return Partial((node,))


def _boundary(spread: Spread, node: fx.Node) -> States:
    """Heads or channels are independent: dealt where any input is, if every input can be."""
    axes = boundaries.SPLITS[targets.base_name(node)]
    names = [a.name for a in node.target._schema.arguments]
    given = [
        (axes.get(name), value)
        for name, argument in zip(names, node.args, strict=False)
        for value in _nodes(argument)
    ]
    dealt = [
        (shape(value)[s.axis], s)
        for allowed, value in given
        if (s := _argument(spread, node, allowed, value))
    ]
    made = node.meta["val"]
    several = isinstance(made, list | tuple)
    outs = [_one(axes[f"out{i}"]) for i in range(len(made) if several else 1)]
    if not dealt:
        return [None] * len(outs) if several else None
    for allowed, value in given:
        if isinstance(allowed, int) and spread.of(value) is None:
            spread.sliced(value, node, allowed)
    length = int((made[0] if several else made).shape[outs[0]])
    along, state = max(dealt, key=lambda d: (d[0] == length, d[0], bool(d[1].sources)))
    if along != length:  # heads that are whole on each rank, which does those of its groups
        behind = tuple(dict.fromkeys(r for p in state.pieces for r in (*p.sources, *p.repeats)))
        state = Split(0, (Piece(length, length, repeats=behind),))
    spread.dealt.add(node)
    states: list[State] = [state.at(a) for a in outs]
    return states if several else states[0]


def _argument(
    spread: Spread, node: fx.Node, allowed: int | tuple[int, ...] | None, value: fx.Node
) -> Split | None:
    """How an argument of a boundary is dealt; None where it is whole, or must be."""
    state = spread.of(value)
    if isinstance(state, Partial):
        spread.reduce(value)
    if not isinstance(state, Split):
        return None
    if allowed is None or state.axis not in (allowed if isinstance(allowed, tuple) else (allowed,)):
        spread.needs_whole(value, node)
        return None
    spread.constrain(state)
    return state


def _one(axis: int | tuple[int, ...]) -> int:
    return axis if isinstance(axis, int) else axis[0]


def _nodes(value: Any) -> list[fx.Node]:
    if isinstance(value, fx.Node):
        return [value]
    return [v for v in value if isinstance(v, fx.Node)] if isinstance(value, list | tuple) else []


for _name in boundaries.SPLITS:
    rule(_name)(_boundary)
