"""Attention that a model writes out: product of queries with keys, softmax over the keys, product with values.

Found by the dataflow around a softmax. Upwards, scores may be scaled, capped, shifted and masked until the product of
two values that the tokens enter; downwards, probabilities may be cast and masked until the product that sums over the
keys. Everything between belongs to one op, the same that the registry's attention is; so do casts and repetitions
of queries, keys and values that nothing else reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy
import torch
from torch import fx

from oplib.symbols import B, P, S
from tracer.match import Stage, matcher, targets
from tracer.match.attention import Call, claim_of
from tracer.match.bias import bias_of, of_tokens
from tracer.match.claim import Refusal, Result
from tracer.match.flow import Flow, Role
from tracer.match.positions import HIDDEN, NEVER, Mask, Positions, Unknown, is_bias, visibility
from tracer.match.products import Product, is_layout, moved, product

_SCALES = frozenset(["mul", "div", "multiply", "true_divide"])
_SUMS = frozenset(["add", "sub"])
_BOUNDS = frozenset(["clamp", "clamp_min", "clamp_max", "nan_to_num", "maximum", "minimum"])
_PEAKS = frozenset(["max", "amax"])
#: Repetitions of a head next to itself: query heads share it in groups. `repeat` deals heads out in turn.
_REPEATS = frozenset(["repeat_interleave", "expand", "broadcast_to", "expand_as"])
#: Operators that change which token a row of keys or values stands for.
_ORDERING = frozenset(
    [
        "sort",
        "msort",
        "argsort",
        "topk",
        "kthvalue",
        "cumsum",
        "cumprod",
        "cummax",
        "cummin",
        "flip",
        "roll",
    ]
)

_PROJECTIONS = frozenset(["linear", "addmm", "embedding"]) | targets.PRODUCTS


class Unlike(Exception):
    """Why the nodes around a softmax are not attention."""


@dataclass(slots=True, kw_only=True)
class Scores:
    """The way from the product of queries with keys to a softmax: its nodes in order of execution, what is added to
    the scores (`fixed`: made of positions alone, masks as well), and what the masks hide.
    """

    product: Product
    chain: list[fx.Node] = field(default_factory=list)
    extra: list[fx.Node] = field(default_factory=list)
    terms: list[fx.Node] = field(default_factory=list)
    fixed: list[fx.Node] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    parameters: list[fx.Node] = field(default_factory=list)
    softcap: float = 0.0
    sinks: bool = False


@matcher("written_attention", "aten.softmax", "aten._softmax", stage=Stage.PATTERN)
def written_attention(flow: Flow, node: fx.Node, _taken) -> Result:
    """A softmax between two products, as `<phase>_attention` or `<phase>_mla`."""
    if flow.role[node] is not Role.DATA:
        return None
    try:
        probabilities, values = _down(flow, node)
        scores = _up(flow, node.args[0])
        return _claim(flow, node, scores, probabilities, values)
    except Unlike as why:
        return Refusal(node=node, op=f"{flow.trace.phase}_attention", reason=str(why))
    except _Elsewhere:
        return None


class _Elsewhere(Exception):
    """A softmax that has nothing to do with attention."""


# upwards ----------------------------------------------------------------------------------------


def _up(flow: Flow, node: fx.Node) -> Scores:
    """The way back from the softmax's input. Where a node has two inputs, the one that leads to the product."""
    if not isinstance(node, fx.Node):
        raise Unlike("a number stands where the product of queries and keys should")
    found = product(flow, node)
    if found is not None:
        if not all(f in of_tokens(flow) for f in found.factors):
            raise Unlike(f"{node.name} multiplies with what no token enters, not with keys")
        scores = Scores(product=found)
        if found.added is not None:
            _add(flow, scores, found.added)
        return scores
    name = targets.base_name(node).rstrip("_")
    if node.op == "call_function" and targets.is_aten(node):
        if is_layout(node) or name in _BOUNDS:
            return _via(flow, node, node.args[0])
        for names, step in _STEPS:
            if name in names:
                return step(flow, node)
    raise Unlike(f"its scores come out of {_called(flow, node)}, not out of a product with keys")


def _via(flow: Flow, node: fx.Node, source: fx.Node) -> Scores:
    """The way back through a node that hands on the scores it gets from `source`."""
    scores = _up(flow, source)
    if node.meta["val"].numel() != source.meta["val"].numel():
        raise Unlike(f"{_called(flow, node)} repeats or cuts its scores")
    scores.chain.append(node)
    return scores


def _scaled(flow: Flow, node: fx.Node) -> Scores:
    source, other = _split(flow, node)
    scores = _via(flow, node, source)
    if isinstance(other, fx.Node):
        if flow.role[other] is Role.DATA:
            raise Unlike(f"{_called(flow, node)} multiplies its scores with token data")
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
        _add(flow, scores, other, sign=-1 if targets.base_name(node).startswith("sub") else 1)
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
    _mask(flow, scores, mask, inverted=keeps)
    if isinstance(value, fx.Node):
        if flow.role[value] is not Role.POSITION:
            raise Unlike(f"{_called(flow, node)} puts token data in the place of scores")
    elif float(value) > HIDDEN:
        raise Unlike(
            f"{_called(flow, node)} puts {value} in the place of scores, which hides no key"
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
        raise Unlike(f"{_called(flow, node)} joins its scores with others")
    scores = _up(flow, parts[0])
    if flow.parameter(parts[1]) is None:
        raise Unlike(f"{_called(flow, node)} joins its scores with what is no parameter")
    _own(flow, scores, parts[1])
    scores.chain.append(node)
    scores.sinks = True
    return scores


_STEPS = (
    (_SCALES, _scaled),
    (_SUMS, _summed),
    (frozenset(["masked_fill", "where"]), _filled),
    (frozenset(["tanh"]), _capped),
    (frozenset(["cat", "concat", "concatenate"]), _joined),
)


def _split(flow: Flow, node: fx.Node) -> tuple[fx.Node, fx.Node | float]:
    """The argument that leads to the product, and the other one."""
    first, second = node.args[:2]
    leading = [x for x in (first, second) if isinstance(x, fx.Node) and _reaches(flow, x)]
    if len(leading) == 2 and first is not second:
        raise Unlike(f"{_called(flow, node)} joins two products of tokens")
    if not leading:
        raise Unlike(f"{_called(flow, node)} joins what are no scores of keys")
    return leading[0], second if leading[0] is first else first


def _reaches(flow: Flow, node: fx.Node) -> bool:
    if flow.role[node] is not Role.DATA:
        return False
    try:
        _up(flow, node)
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


def _add(flow: Flow, scores: Scores, term: fx.Node, *, sign: int = 1) -> None:
    """A term beside the scores: a mask where it is made of positions and the same for all heads, else a bias."""
    if flow.role[term] is not Role.POSITION:
        scores.terms.append(term)
        _own(flow, scores, term)
        return
    scores.fixed.append(term)
    if term.meta["val"].dtype is torch.bool:
        raise Unlike(f"{term.name} adds truth values to its scores")
    limit = NEVER if _per_head(flow, term) else HIDDEN
    scores.masks.append(lambda at: at.hidden(term, sign, limit))


def _per_head(flow: Flow, term: fx.Node) -> bool:
    """Whether a term has an axis before (queries, keys) that is neither 1 nor the batch."""
    sizes = flow.shape(term)[:-2]
    return any(size not in (1, B) for size in sizes)


def _mask(flow: Flow, scores: Scores, mask: fx.Node, *, inverted: bool) -> None:
    if flow.role[mask] is not Role.POSITION:
        raise Unlike(f"{mask.name} hides keys by token data")

    def hidden(at: Positions) -> torch.Tensor:
        value = at.value(mask).bool()
        return ~value if inverted else value

    scores.masks.append(hidden)


def _own(flow: Flow, scores: Scores, node: fx.Node) -> None:
    """A parameter that enters the scores belongs to the op, with what is done to it on the way."""
    if found := flow.parameter(node):
        scores.parameters.append(found[0])
        scores.extra += [c for c in found[1] if len(flow.users[c]) == 1]


# downwards --------------------------------------------------------------------------------------


def _down(flow: Flow, node: fx.Node) -> tuple[list[fx.Node], Product]:
    """From the softmax to the product with the values: the nodes between, and that product."""
    chain = [node]
    while True:
        users = [
            u
            for u in flow.users[chain[-1]]
            if u in flow.alive and not targets.is_shape_arithmetic(u)
        ]
        products = [p for u in users if u.op == "call_function" and (p := product(flow, u))]
        if products and len(users) == 1:
            return chain, products[0]
        if len(users) != 1 or users[0].op != "call_function":
            if products:
                raise Unlike(
                    f"its probabilities are read by {_called(flow, _other(users, products))} too"
                )
            raise _Elsewhere
        if not _hands_on(flow, users[0], chain[-1]):
            if _product_below(flow, users[0]):
                raise Unlike(f"its probabilities pass {_called(flow, users[0])} before the values")
            raise _Elsewhere
        chain.append(users[0])


def _other(users: list[fx.Node], products: list[Product]) -> fx.Node:
    nodes = [p.node for p in products]
    return next((u for u in users if u not in nodes), nodes[-1])


def _hands_on(flow: Flow, node: fx.Node, source: fx.Node) -> bool:
    """Whether a node between softmax and values changes no probability but those of hidden keys and of sinks."""
    name = targets.base_name(node).rstrip("_")
    if is_layout(node):
        return node.args[0] is source
    if name == "slice":
        axis, ndim = int(node.args[1]) if len(node.args) > 1 else 0, source.meta["val"].dim()
        start = node.args[2] if len(node.args) > 2 else 0
        cut = source.meta["val"].shape[-1] - node.meta["val"].shape[-1]
        return axis % ndim == ndim - 1 and not start and cut == 1
    others = [a for a in node.args if isinstance(a, fx.Node) and a is not source]
    fixed = all(flow.role[o] is Role.POSITION for o in others)
    return fixed and name in (*_SCALES, "masked_fill", "where", "nan_to_num")


def _product_below(flow: Flow, node: fx.Node) -> bool:
    """Whether a product over the same keys follows within a few steps."""
    for _ in range(4):
        users = [u for u in flow.users[node] if u in flow.alive and u.op == "call_function"]
        if any(product(flow, u) for u in users):
            return True
        if len(users) != 1:
            return False
        node = users[0]
    return False


# what it is -------------------------------------------------------------------------------------


def _claim(
    flow: Flow, node: fx.Node, scores: Scores, probabilities: list[fx.Node], values: Product
) -> Result:
    side = _key_side(node, scores)
    query, key = scores.product.factors[1 - side], scores.product.factors[side]
    at = values.factors.index(probabilities[-1])
    value = values.factors[1 - at]
    _check_axis(node, probabilities, values.summed[at])
    own = scores.product.own[side]
    keys = flow.shape(scores.product.node)[own] if own is not None else sympy.Integer(0)
    new = _new(flow, scores.product, side)
    if sympy.expand(keys - new) not in (P, 0):
        raise Unlike(f"it sees {keys} keys, not the p cached and {new} new tokens")
    rows = flow.numel(scores.product.node) / keys
    heads = sympy.cancel(rows / (B * new))
    if not (heads.is_Integer and heads > 0):
        raise Unlike(f"it has {rows} rows of scores, no whole number of heads for each token")
    if value not in of_tokens(flow):
        raise Unlike(f"{value.name} is multiplied as values, and no token enters it")
    head_dim = flow.shape(query)[scores.product.summed[1 - side]]
    value_dim = sympy.cancel(flow.numel(values.node) / rows)
    if not (head_dim.is_Integer and value_dim.is_Integer):
        raise Unlike(f"heads of {head_dim} and {value_dim} are no sizes of a head")
    inside = [
        scores.product.node, *scores.chain, *scores.extra, *probabilities, values.node
    ]  # fmt: skip
    _check_readers(flow, inside)
    sides = [
        Side.of(flow, factor, inside, tokens * size)
        for factor, tokens, size in (
            (query, new, head_dim),
            (key, keys, head_dim),
            (value, keys, value_dim),
        )
    ]
    kv_heads = max(sides[1].heads, sides[2].heads)
    if heads % kv_heads:
        raise Unlike(f"{heads} query heads do not share {kv_heads} key and value heads")
    for given in sides[1:]:
        _check_order(flow, given.node)
    try:
        seen = visibility(flow, scores.masks, new=new, keys=keys)
    except Unknown as why:
        raise Unlike(f"which keys it sees is not known: {why}") from why
    terms = [*scores.terms, *(t for t in scores.fixed if is_bias(flow, t, new=new))]
    return claim_of(
        flow,
        Call(
            anchor=values.node,
            query=sides[0].node,
            key=sides[1].node,
            value=sides[2].node,
            params={
                "num_heads": int(heads),
                "num_kv_heads": int(kv_heads),
                "head_dim": int(head_dim),
                "v_head_dim": int(value_dim),
                "window": seen.window,
                "chunk": seen.chunk,
                "softcap": abs(scores.softcap),
                "sinks": scores.sinks,
                "bias": bias_of(flow, terms),
                "causal": seen.causal,
            },
            batch=B,
            new=new,
            keys=keys,
            nodes=[*inside, *(n for s in sides for n in s.path)],
            parameters=scores.parameters,
        ),
    )


def _new(flow: Flow, scores: Product, side: int) -> sympy.Expr:
    """How many tokens query: those of the axis that queries bring, or the new ones where heads are folded into it."""
    tokens = S if flow.trace.phase == "context" else sympy.Integer(1)
    own = scores.own[1 - side]
    size = flow.shape(scores.node)[own] if own is not None else tokens
    return size if size in (tokens, P + tokens) else tokens


def _key_side(node: fx.Node, scores: Scores) -> int:
    """Which factor of the product holds the keys: the softmax runs over its tokens."""
    axis, ndim = int(node.args[1]), node.args[0].meta["val"].dim()
    for side in (1, 0):
        start = scores.product.own[side]
        if start is not None and _follow(scores.chain, start) == axis % ndim:
            return side
    raise Unlike(f"its softmax runs over axis {axis}, which is not the tokens of one factor")


def _follow(chain: list[fx.Node], axis: int | None) -> int | None:
    """Where an axis of the first node's input stands after the last."""
    for node in chain:
        if axis is not None and is_layout(node):
            axis = moved(node, axis)
    return axis


def _check_axis(node: fx.Node, probabilities: list[fx.Node], summed: int) -> None:
    axis = int(node.args[1]) % node.args[0].meta["val"].dim()
    if _follow(probabilities[1:], axis) != summed:
        raise Unlike(
            f"its softmax runs over axis {axis}, and the product with the values sums over another"
        )


def _check_readers(flow: Flow, inside: list[fx.Node]) -> None:
    """Nothing but the op itself, and its last product's readers, may read what is inside."""
    own = set(inside)
    for node in inside[:-1]:
        for user in flow.users[node]:
            if user in own or user not in flow.alive or targets.is_shape_arithmetic(user):
                continue
            raise Unlike(f"{node.name} is read by {_called(flow, user)} too")


def _check_order(flow: Flow, node: fx.Node) -> None:
    for above in flow.ancestors([node], stop=_projects):
        if flow.role[above] is Role.DATA and targets.base_name(above) in _ORDERING:
            raise Unlike(f"its keys or values come out of {_called(flow, above)}")


def _projects(node: fx.Node) -> bool:
    name = targets.base_name(node)
    return (not targets.is_aten(node) and not targets.is_view(node)) or name in _PROJECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Queries, keys or values before what attention does to them: the node, its heads, the nodes after it."""

    node: fx.Node
    heads: int
    path: tuple[fx.Node, ...]

    @staticmethod
    def of(flow: Flow, factor: fx.Node, inside: list[fx.Node], per_head: sympy.Expr) -> Side:
        """Back through casts to a wider dtype, repetitions and layouts that nothing else reads."""
        own, path, node = set(inside), [], factor
        candidates = [factor]
        while node.op == "call_function" and _is_preparation(node):
            readers = {r for r in flow.readers([node]) if r in flow.alive}
            if not readers <= own:
                break
            own.add(node)
            path.append(node)
            node = node.args[0]
            candidates.append(node)
        heads = sympy.cancel(flow.numel(node) / (B * per_head))
        if not heads.is_Integer:
            raise Unlike(f"{node.name} holds {flow.shape(node)}, no whole number of heads")
        shaped = [
            c
            for c in reversed(candidates)
            if len(flow.shape(c)) == 4 and flow.numel(c) == flow.numel(node)
            and flow.shape(c)[:2] == (B, heads)
        ]  # fmt: skip
        return Side(node=next(iter(shaped), node), heads=int(heads), path=tuple(path))


def _is_preparation(node: fx.Node) -> bool:
    if not targets.is_aten(node) or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.meta["val"].dtype.itemsize < node.args[0].meta["val"].dtype.itemsize:
        return False
    return is_layout(node) or targets.base_name(node) in _REPEATS


def _called(flow: Flow, node: fx.Node) -> str:
    """A node as a person finds it: operator, file and line."""
    if node.op != "call_function":
        return node.name if node.op != "output" else "the output"
    return f"{targets.full_name(node)} ({flow.origin(node).source})"
