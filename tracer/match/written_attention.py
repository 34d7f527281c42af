"""Attention that a model writes out: product of queries with keys, softmax over the keys, product with values.

Found by the dataflow around a softmax. Upwards, scores may be scaled, capped, shifted and masked until the product of
two values that the tokens enter; downwards, probabilities may be cast and masked until the product that sums over the
keys. Everything between belongs to one op, the same that the registry's attention is; so do casts and repetitions
of queries, keys and values that nothing else reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
import torch
from torch import fx

from oplib.symbols import B, P, S, evaluate
from tracer.match import Stage, matcher, targets
from tracer.match.attention import Call, claim_of
from tracer.match.bias import bias_of, of_tokens
from tracer.match.claim import Claim, Refusal, Result
from tracer.match.flow import Flow, Role
from tracer.match.positions import Mask, Positions, Unknown, is_bias, visibility
from tracer.match.products import Product, is_layout, moved, product
from tracer.match.scores import SCALES, Scores, Unlike, add_mask, add_term, called, scores_of

#: Repetitions of a head next to itself: query heads share it in groups. `repeat` deals heads out in turn.
_REPEATS = frozenset(["repeat_interleave", "expand", "broadcast_to", "expand_as"])
#: Operators that change which token a row of keys or values stands for.
_ORDERING = frozenset([
    "sort", "msort", "argsort", "topk", "kthvalue", "cumsum", "cumprod", "cummax", "cummin", "flip", "roll",
])  # fmt: skip

_PROJECTIONS = frozenset(["linear", "addmm", "embedding"]) | targets.PRODUCTS


@matcher("written_attention", "aten.softmax", "aten._softmax", stage=Stage.PATTERN)
def written_attention(flow: Flow, node: fx.Node, _taken) -> Result:
    """A softmax between two products, as `<phase>_attention` or `<phase>_mla`."""
    if flow.role[node] is not Role.DATA:
        return None
    try:
        probabilities, values = _down(flow, node)
        scores = scores_of(flow, node.args[0])
        return _claim(flow, node, scores, probabilities, values)
    except Unlike as why:
        return Refusal(node=node, op=f"{flow.trace.phase}_attention", reason=str(why))
    except _Elsewhere:
        return None


class _Elsewhere(Exception):
    """A softmax that has nothing to do with attention."""


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
                    f"its probabilities are read by {called(flow, _other(users, products))} too"
                )
            raise _Elsewhere
        if not _hands_on(flow, users[0], chain[-1]):
            if _product_below(flow, users[0]):
                raise Unlike(f"its probabilities pass {called(flow, users[0])} before the values")
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
    fixed = node.args.count(source) == 1 and all(flow.role[o] is Role.POSITION for o in others)
    return fixed and name in (*SCALES, "masked_fill", "where", "nan_to_num")


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
) -> Claim:
    found = scores.product
    assert found is not None
    side = _key_side(node, found, scores.chain)
    at = values.factors.index(probabilities[-1])
    _check_axis(node, probabilities, values.summed[at])
    own = found.own[side]
    keys = flow.shape(found.node)[own] if own is not None else sympy.Integer(0)
    inside = [found.node, *scores.chain, *scores.extra, *probabilities, values.node]
    _check_readers(flow, inside)
    query = found.factors[1 - side]
    rows = flow.numel(found.node) / keys if keys else sympy.Integer(0)
    return _attention(
        flow,
        Written(
            anchor=values.node,
            factors=(query, found.factors[side], values.factors[1 - at]),
            new=_new(flow, found, side),
            keys=keys,
            rows=rows,
            head_dim=flow.shape(query)[found.summed[1 - side]],
            inside=inside,
            masks=[_laid_out(flow, found, side, scores.chain, mask) for mask in scores.masks],
        ),
        scores,
    )


def _laid_out(
    flow: Flow, found: Product, side: int, chain: list[fx.Node], mask: tuple[fx.Node, Mask]
) -> Mask:
    """A mask in the layout (..., queries, keys), whatever that of the scores it joins."""
    node, hidden = mask
    before = chain[: chain.index(node) + 1] if node in chain else []
    shape, keys = flow.shape(node), _follow(before, found.own[side])
    new = _new(flow, found, side)
    others = [i for i, size in enumerate(shape) if size == new and i != keys]
    if keys is None or not (new == 1 or len(others) == 1):
        raise Unlike(f"{called(flow, node)} masks scores of {shape}, whose queries are not told")

    def laid_out(positions: Positions) -> torch.Tensor:
        value = hidden(positions)
        value = value.reshape((1,) * (len(shape) - value.dim()) + tuple(value.shape))
        if new == 1:
            return value.movedim(keys, -1).unsqueeze(-2)
        return value.movedim((others[0], keys), (-2, -1))

    return laid_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Queries, keys and values as the products take them, and the sizes of the scores: `rows` of them, all sequences
    and heads together, over `keys`.
    """

    anchor: fx.Node
    factors: tuple[fx.Node, fx.Node, fx.Node]
    new: sympy.Expr
    keys: sympy.Expr
    rows: sympy.Expr
    head_dim: sympy.Expr
    inside: list[fx.Node]
    masks: list[Mask]


def _attention(flow: Flow, found: Written, scores: Scores) -> Claim:
    new, keys = found.new, found.keys
    if sympy.expand(keys - new) not in (P, 0):
        raise Unlike(f"it sees {keys} keys, not the p cached and {new} new tokens")
    heads = sympy.cancel(found.rows / (B * new))
    if not (heads.is_Integer and heads > 0):
        raise Unlike(f"it has {found.rows} rows of scores, no whole number of heads for each token")
    head_dim, value_dim = found.head_dim, sympy.cancel(flow.numel(found.anchor) / found.rows)
    if not (head_dim.is_Integer and value_dim.is_Integer):
        raise Unlike(f"heads of {head_dim} and {value_dim} are no sizes of a head")
    per_head = (new * head_dim, keys * head_dim, keys * value_dim)
    sides = [
        Side.of(flow, factor, found.inside, size)
        for factor, size in zip(found.factors, per_head, strict=True)
    ]
    kv_heads = max(sides[1].heads, sides[2].heads)
    if heads % kv_heads:
        raise Unlike(f"{heads} query heads do not share {kv_heads} key and value heads")
    for given in sides[1:]:
        if given.node not in of_tokens(flow):
            raise Unlike(f"{given.node.name} stands for keys or values, and no token enters it")
        _check_order(flow, given.node)
    try:
        seen = visibility(flow, found.masks, new=new, keys=keys)
    except Unknown as why:
        raise Unlike(f"which keys it sees is not known: {why}") from why
    terms = [*scores.terms, *(t for t in scores.fixed if is_bias(flow, t, new=new))]
    return claim_of(
        flow,
        Call(
            anchor=found.anchor,
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
            nodes=[*found.inside, *(n for s in sides for n in s.path)],
            parameters=scores.parameters,
        ),
    )


@matcher("sdpa", "aten.scaled_dot_product_attention")
def sdpa(flow: Flow, node: fx.Node, _taken) -> Result:
    """`scaled_dot_product_attention` called past the registry: (..., new, size) queries, (..., keys, size) keys."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    query, key, value = given["query"], given["key"], given["value"]
    new, keys = flow.shape(query)[-2], flow.shape(key)[-2]
    scores = Scores()
    try:
        if (mask := given.get("attn_mask")) is not None:
            if mask.meta["val"].dtype is torch.bool:
                add_mask(flow, scores, node, mask, inverted=True)
            else:
                add_term(flow, scores, node, mask)
        if given.get("is_causal"):
            scores.masks.append((node, lambda at: ~_lower(at, new, keys)))
        found = Written(
            anchor=node,
            factors=(query, key, value),
            new=new,
            keys=keys,
            rows=sympy.Mul(*flow.shape(query)[:-1]),
            head_dim=flow.shape(query)[-1],
            inside=[*scores.extra, node],
            masks=[mask for _, mask in scores.masks],
        )
        return _attention(flow, found, scores)
    except Unlike as why:
        return Refusal(node=node, op=f"{flow.trace.phase}_attention", reason=str(why))


def _lower(at: Positions, new: sympy.Expr, keys: sympy.Expr) -> torch.Tensor:
    """What `is_causal` lets see: as torch has it, the first query sees the first key alone."""
    sizes = [int(evaluate(size, **at.at)) for size in (new, keys)]
    return torch.ones(*sizes, dtype=torch.bool).tril()


def _new(flow: Flow, scores: Product, side: int) -> sympy.Expr:
    """How many tokens query: those of the axis that queries bring, or the new ones where heads are folded into it."""
    tokens = S if flow.trace.phase == "context" else sympy.Integer(1)
    own = scores.own[1 - side]
    size = flow.shape(scores.node)[own] if own is not None else tokens
    return size if size in (tokens, P + tokens) else tokens


def _key_side(node: fx.Node, found: Product, chain: list[fx.Node]) -> int:
    """Which factor of the product holds the keys: the softmax runs over its tokens."""
    axis, ndim = int(node.args[1]), node.args[0].meta["val"].dim()
    for side in (1, 0):
        start = found.own[side]
        if start is not None and _follow(chain, start) == axis % ndim:
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
            raise Unlike(f"{node.name} is read by {called(flow, user)} too")


def _check_order(flow: Flow, node: fx.Node) -> None:
    for above in flow.ancestors([node], stop=_projects):
        if flow.role[above] is Role.DATA and targets.base_name(above) in _ORDERING:
            raise Unlike(f"its keys or values come out of {called(flow, above)}")


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
        while node.op == "call_function" and _is_preparation(node):
            if not flow.readers([node]) & flow.alive <= own:
                break
            own.add(node)
            path.append(node)
            node = node.args[0]
        heads = sympy.cancel(flow.numel(node) / (B * per_head))
        if not heads.is_Integer:
            raise Unlike(f"{node.name} holds {flow.shape(node)}, no whole number of heads")
        shaped = (
            n
            for n in (node, *reversed(path))
            if len(flow.shape(n)) == 4 and flow.numel(n) == flow.numel(node)
            and flow.shape(n)[:2] == (B, heads)
        )  # fmt: skip
        return Side(node=next(shaped, node), heads=int(heads), path=tuple(path))


def _is_preparation(node: fx.Node) -> bool:
    if not targets.is_aten(node) or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.meta["val"].dtype.itemsize < node.args[0].meta["val"].dtype.itemsize:
        return False
    return is_layout(node) or targets.base_name(node) in _REPEATS
