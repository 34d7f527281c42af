"""The choice of key blocks for sparse attention, where a model loops over its queries, as one node.

Shapes: B batch, S new tokens, N all tokens, H scoring heads, D key size, M = N // ratio complete blocks.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

import torch

from tracer.method_blocks import Block

from . import define, replaces_block


def _fake(query, keys, ratio, topk):
    """Positions of the tokens of `topk` blocks, and of those behind the last complete one."""
    width = topk * ratio + ratio - 1
    return query.new_empty(*query.shape[:2], width, dtype=torch.int32)


_OP = define("block_selection(Tensor query, Tensor keys, int ratio, int topk) -> Tensor", _fake)


def _selection(forward: ast.FunctionDef) -> Block | None:
    """`for <sequence>: for <query>: ...`, which finds the keys that the query sees (`nonzero`), averages blocks of them
    (`mean`), norms and rotates the averages, and takes the best (`topk`) by products with the query.
    """
    for node in ast.walk(forward):
        if isinstance(node, ast.For) and any(isinstance(part, ast.For) for part in node.body):
            calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
            found = {_method(c): c for c in reversed(calls)}
            if found.keys() >= {"nonzero", "mean", "topk", "matmul", "index_select"}:
                return _block(node, calls, found)
    return None


def _block(loop: ast.For, calls: list[ast.Call], found: dict[str, ast.Call]) -> Block | None:
    rotations = [c for c in calls if {"cos", "sin"} <= {k.arg for k in c.keywords}]
    norms = [c for c in calls if _is_own(c.func)]
    ratios = [n.right for n in ast.walk(loop) if isinstance(n, ast.BinOp) and _is_blocks(n)]
    limits = [n for n in ast.walk(found["topk"].args[0]) if _is_own(n)]
    stores = [t for n in ast.walk(loop) if isinstance(n, ast.Assign) for t in n.targets]
    written = [t for t in stores if isinstance(t, ast.Subscript)]
    if not all(len(part) == 1 for part in (rotations, norms, ratios, limits, written)):
        return None
    angles = [_base(next(k.value for k in rotations[0].keywords if k.arg == n)) for n in ("cos", "sin")]  # fmt: skip
    gathered = [_base(c) for c in calls if _method(c) == "index_select"]
    keys = [name for name in gathered if name and name not in angles and name != _base(ratios[0])]
    query, result = _base(found["matmul"].args[0]), _base(written[0])
    names = (query, keys[0] if keys else "", *angles, result)
    if not all(names):
        return None
    given = (norms[0].func, rotations[0].func, ratios[0], limits[0])
    return Block(
        statement=loop,
        assigned=(result,),
        arguments=(*names[:-1], *(ast.unparse(expression) for expression in given)),
    )


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _is_own(node: ast.AST) -> bool:
    """Whether it is an attribute of the module."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def _is_blocks(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.FloorDiv) and _is_own(node.right)


def _base(node: ast.expr) -> str:
    """The name whose elements, methods or results an expression reads."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        else:
            return ""
    return node.id


def _pooled(keys, cos, sin, norm: Callable, rotate: Callable, ratio: int) -> torch.Tensor:
    """(B,N,D), angles (B,N,R) x2 -> (B,M,D): the mean of each complete block, normed, and rotated to the position of
    its first token. A block is the same to every query that sees it, so it is made once.
    """
    blocks = keys.shape[1] // ratio
    whole = keys.unfold(1, ratio, ratio) if blocks else keys.new_empty(*keys[:, :0].shape, ratio)
    means = norm(whole.float().mean(dim=-1).to(keys.dtype))
    first = (angle[:, : blocks * ratio : ratio] for angle in (cos, sin))
    return rotate(means.unsqueeze(1), **dict(zip(("cos", "sin"), first, strict=True))).squeeze(1)


def written_out(query, keys, cos, sin, norm, rotate, ratio, topk) -> torch.Tensor:
    """The same as `block_selection`, query by query, over the complete blocks that each sees."""
    batch, new, _, _ = query.shape
    tokens, pooled = keys.shape[1], _pooled(keys, cos, sin, norm, rotate, ratio)
    chosen = query.new_full((batch, new, topk * ratio + ratio - 1), -1, dtype=torch.int32)
    places = torch.arange(tokens, dtype=torch.int32, device=query.device)
    for i in range(new):
        seen = tokens - new + i + 1
        blocks = seen // ratio
        products = torch.matmul(query[:, i].float(), pooled[:, :blocks].float().transpose(1, 2))
        best = torch.relu(products).sum(dim=1).topk(min(topk, blocks)).indices
        inside = places[: blocks * ratio].unflatten(0, (blocks, ratio))[best].flatten(1)
        tail = places[blocks * ratio : seen].expand(batch, -1)
        chosen[:, i, : min(topk, blocks) * ratio + seen % ratio] = torch.cat([inside, tail], dim=1)
    return chosen


@replaces_block(_selection, written_out=written_out)
def block_selection(query, keys, cos, sin, norm, rotate, ratio, topk) -> torch.Tensor:
    """(B,S,H,D), raw keys (B,N,D), angles (B,N,R) x2 -> positions (B,S,topk·ratio + ratio - 1), -1 where there are
    fewer. Sequences are not padded: the last query sees all N tokens, each one before it one less.
    """
    return _OP(query, _pooled(keys, cos, sin, norm, rotate, ratio), ratio, topk)
