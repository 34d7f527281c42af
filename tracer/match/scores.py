"""The way from a softmax back to the product of queries with keys: what is done to attention scores on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from oplib.symbols import B, P, S
from tracer.match import targets
from tracer.match.bias import of_tokens
from tracer.match.flow import Flow, Role
from tracer.match.positions import HIDDEN, NEVER, Mask, Positions
from tracer.match.products import Product, is_layout, product

SCALES = frozenset(["mul", "div", "multiply", "true_divide"])
_SUMS = frozenset(["add", "sub"])
_BOUNDS = frozenset(["clamp", "clamp_min", "clamp_max", "nan_to_num", "maximum", "minimum"])
_PEAKS = frozenset(["max", "amax"])


class Unlike(Exception):
    """Why the nodes around a softmax are not attention."""


@dataclass(slots=True, kw_only=True)
class Scores:
    """The way from the product of queries with keys to a softmax: its nodes in order of execution, what is added to
    the scores (`fixed`: made of positions alone, masks as well), and the masks,
    each with the node at which it hides keys.
    """

    product: Product | None = None
    chain: list[fx.Node] = field(default_factory=list)
    extra: list[fx.Node] = field(default_factory=list)
    terms: list[fx.Node] = field(default_factory=list)
    fixed: list[fx.Node] = field(default_factory=list)
    masks: list[tuple[fx.Node, Mask]] = field(default_factory=list)
    parameters: list[fx.Node] = field(default_factory=list)
    softcap: float = 0.0
    sinks: bool = False


def scores_of(flow: Flow, node: fx.Node) -> Scores:
    """The way back from the softmax's input. Where a node has two inputs, the one that leads to the product."""
    if not isinstance(node, fx.Node):
        raise Unlike("a number stands where the product of queries and keys should")
    found = product(flow, node)
    if found is not None:
        if not all(f in of_tokens(flow) for f in found.factors):
            raise Unlike(f"{node.name} multiplies with what no token enters, not with keys")
        scores = Scores(product=found)
        if found.added is not None:
            add_term(flow, scores, node, found.added)
        return scores
    name = targets.base_name(node).rstrip("_")
    if node.op == "call_function" and targets.is_aten(node):
        if is_layout(node) or name in _BOUNDS or _is_larger(flow, node):
            return _via(flow, node, node.args[0])
        for names, step in _STEPS:
            if name in names:
                return step(flow, node)
    raise Unlike(f"its scores come out of {called(flow, node)}, not out of a product with keys")


def _is_larger(flow: Flow, node: fx.Node) -> bool:
    """Whether the node is `max` of its scores and of a bound, element by element."""
    bound = node.args[1] if len(node.args) == 2 else None
    return (
        targets.base_name(node) == "max"
        and isinstance(bound, fx.Node)
        and flow.role[bound] is Role.POSITION
    )


def _via(flow: Flow, node: fx.Node, source: fx.Node) -> Scores:
    """The way back through a node that hands on the scores it gets from `source`."""
    scores = scores_of(flow, source)
    if node.meta["val"].numel() != source.meta["val"].numel():
        raise Unlike(f"{called(flow, node)} repeats or cuts its scores")
    scores.chain.append(node)
    return scores


def _scaled(flow: Flow, node: fx.Node) -> Scores:
    source, other = _split(flow, node)
    scores = _via(flow, node, source)
    if isinstance(other, fx.Node):
        if flow.role[other] is Role.DATA:
            raise Unlike(f"{called(flow, node)} multiplies its scores with token data")
        _own(flow, scores, other)
    elif scores.softcap < 0:  # the factor behind tanh
        scores.softcap = abs(float(other))
    return scores


def _summed(flow: Flow, node: fx.Node) -> Scores:
    if _is_peak(node.args[1], node.args[0]):  # x - max(x) changes no probability
        scores = _via(flow, node, node.args[0])
        peak = node.args[1]
        while peak is not node.args[0]:
            scores.extra.append(peak)
            peak = peak.args[0]
        return scores
    source, other = _split(flow, node)
    scores = _via(flow, node, source)
    if isinstance(other, fx.Node):
        add_term(
            flow, scores, node, other, sign=-1 if targets.base_name(node).startswith("sub") else 1
        )
    return scores


def _filled(flow: Flow, node: fx.Node) -> Scores:
    """`masked_fill(scores, mask, value)`, `where(mask, scores, value)` or `where(mask, value, scores)`."""
    if targets.base_name(node) == "where":
        mask, first, second = node.args
        keeps = isinstance(first, fx.Node) and _reaches(flow, first)
        source, value = (first, second) if keeps else (second, first)
    else:
        (source, mask, value), keeps = node.args, False
    scores = _via(flow, node, source)
    add_mask(flow, scores, node, mask, inverted=keeps)
    if isinstance(value, fx.Node):
        if flow.role[value] is not Role.POSITION:
            raise Unlike(f"{called(flow, node)} puts token data in the place of scores")
    elif float(value) > HIDDEN:
        raise Unlike(
            f"{called(flow, node)} puts {value} in the place of scores, which hides no key"
        )
    return scores


def _capped(flow: Flow, node: fx.Node) -> Scores:
    scores = _via(flow, node, node.args[0])
    scores.softcap = -1.0
    return scores


def _joined(flow: Flow, node: fx.Node) -> Scores:
    """Sinks: one more column of scores, made of parameters alone, that the probabilities lose again."""
    parts, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
    ndim = node.meta["val"].dim()
    if len(parts) != 2 or axis % ndim != ndim - 1 or parts[1].meta["val"].shape[-1] != 1:
        raise Unlike(f"{called(flow, node)} joins its scores with others")
    scores = scores_of(flow, parts[0])
    if flow.parameter(parts[1]) is None:
        raise Unlike(f"{called(flow, node)} joins its scores with what is no parameter")
    _own(flow, scores, parts[1])
    scores.chain.append(node)
    scores.sinks = True
    return scores


_STEPS = (
    (SCALES, _scaled),
    (_SUMS, _summed),
    (frozenset(["masked_fill", "where"]), _filled),
    (frozenset(["tanh"]), _capped),
    (frozenset(["cat", "concat", "concatenate"]), _joined),
)


def _split(flow: Flow, node: fx.Node) -> tuple[fx.Node, fx.Node | float]:
    """The argument that leads to the product, and the other one."""
    first, second = node.args[:2]
    data = [x for x in (first, second) if isinstance(x, fx.Node) and flow.role[x] is Role.DATA]
    leading = data if len(data) == 1 else [x for x in data if _reaches(flow, x)]
    if len(leading) != 1:
        raise Unlike(f"{called(flow, node)} joins {len(leading)} products of tokens")
    return leading[0], second if leading[0] is first else first


def _reaches(flow: Flow, node: fx.Node) -> bool:
    try:
        scores_of(flow, node)
    except Unlike:
        return False
    return True


def _is_peak(node: object, of: fx.Node) -> bool:
    """Whether a node is the largest of another's values along the keys."""
    for _ in range(4):
        if not isinstance(node, fx.Node) or node.op != "call_function" or not node.args:
            return False
        if targets.base_name(node) in _PEAKS:
            return node.args[0] is of
        node = node.args[0]
    return False


def add_term(flow: Flow, scores: Scores, at: fx.Node, term: fx.Node, *, sign: int = 1) -> None:
    """A term that joins the scores at a node: a mask, a bias, or both where it is made of positions."""
    if flow.role[term] is not Role.POSITION:
        scores.terms.append(term)
        _own(flow, scores, term)
        return
    scores.fixed.append(term)
    if term.meta["val"].dtype is torch.bool:
        raise Unlike(f"{term.name} adds truth values to its scores")
    limit = NEVER if _per_head(flow, term) else HIDDEN
    scores.masks.append((at, lambda positions: positions.hidden(term, sign, limit)))


def _per_head(flow: Flow, term: fx.Node) -> bool:
    """Whether a term has an axis that is neither the batch nor tokens."""
    return any(size not in (1, B) and not size.has(S, P) for size in flow.shape(term))


def add_mask(flow: Flow, scores: Scores, at: fx.Node, mask: fx.Node, *, inverted: bool) -> None:
    """Keys hidden at a node by truth values that are true there, or, `inverted`, false."""
    if flow.role[mask] is not Role.POSITION:
        raise Unlike(f"{mask.name} hides keys by token data")

    def hidden(positions: Positions) -> torch.Tensor:
        value = positions.value(mask).bool()
        return ~value if inverted else value

    scores.masks.append((at, hidden))


def _own(flow: Flow, scores: Scores, node: fx.Node) -> None:
    """A parameter that enters the scores belongs to the op, with what is done to it on the way."""
    if found := flow.owned(node):
        scores.parameters.append(found[0])
        scores.extra += found[1]


def called(flow: Flow, node: fx.Node) -> str:
    """A node as a person finds it: operator, file and line."""
    if node.op != "call_function":
        return node.name if node.op != "output" else "the output"
    return f"{targets.full_name(node)} ({flow.origin(node).source})"
