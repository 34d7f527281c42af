"""Linear attention with a fixed decay per head as one node.

Shapes: B batch, H heads, S tokens, D key size, V value size.
"""

from __future__ import annotations

import ast

import torch

from tracer.method_blocks import Block

from . import define, replaces_block

_ROLES = ("query", "key", "value")
_SETTINGS = {"slope_rate", "block_size"}


def _fake(query, key, value, slope, state, chunk_size):
    """The dtype of the reference: decays are as wide as the slopes they are made of."""
    dtype = torch.promote_types(value.dtype, slope.dtype)
    out = value.new_empty(*query.shape[:3], value.shape[3], dtype=dtype)
    return out, value.new_empty(*key.shape[:2], key.shape[3], value.shape[3], dtype=dtype)


_OP = define(
    "linear_attention(Tensor query, Tensor key, Tensor value, Tensor slope, Tensor? state, int chunk_size) "
    "-> (Tensor, Tensor)",
    _fake,
    split={"query": 1, "key": 1, "value": 1, "state": 1, "out0": 1, "out1": 1},
)


def _recurrence(forward: ast.FunctionDef) -> Block | None:
    """`if <state> is None: <loop over blocks> else: <loop over tokens>`, both appending outputs to one list, over
    queries, keys and values, with the slopes and the block size of the module.
    """
    for node in ast.walk(forward):
        if not isinstance(node, ast.If) or not all(map(_loops, (node.body, node.orelse))):
            continue
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
        own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        read = [n.id for n in names if isinstance(n.ctx, ast.Load) and n.id not in own]
        found = [next((n for n in read if role in n), None) for role in _ROLES]
        outputs, state = _appended(node.body) & _appended(node.orelse), _is_none(node.test)
        if state and len(outputs) == 1 and all(found) and _attributes(node) >= _SETTINGS:
            arguments = ("self", *(str(name) for name in found), state)
            return Block(statement=node, assigned=(*outputs, state), arguments=arguments)
    return None


def _loops(body: list[ast.stmt]) -> bool:
    return any(isinstance(statement, ast.For) for statement in body)


def _is_none(test: ast.expr) -> str:
    """The name in `<name> is None`, else an empty one."""
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name):
        return test.left.id if isinstance(test.ops[0], ast.Is) else ""
    return ""


def _appended(body: list[ast.stmt]) -> set[str]:
    """Lists that the statements append to."""
    called = (n.func for part in body for n in ast.walk(part) if isinstance(n, ast.Call))
    return {
        f.value.id
        for f in called
        if isinstance(f, ast.Attribute) and f.attr == "append" and isinstance(f.value, ast.Name)
    }


def _attributes(node: ast.AST) -> set[str]:
    """Attributes of the module that it reads."""
    return {
        n.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
    }


@replaces_block(_recurrence)
def linear_attention(module, query, key, value, state):
    """(B,H,S,D) x2, (B,H,S,V), state (B,H,D,V) or None -> the outputs (B,H,S,V) in a list, and the state."""
    out, state = _OP(query, key, value, module.slope_rate, state, module.block_size)
    return [out], state
