"""What no op claims: where it stands, what it costs at least, what comes nearest, and why that did not match."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch import fx

from oplib.symbols import P, format_expr
from tracer.match import targets
from tracer.match.claim import Matched
from tracer.match.flow import Flow, Role
from tracer.weights import Weights

_PRODUCTS = frozenset(
    f"aten.{name}" for name in ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm")
)


def describe(matched: Matched, weights: Weights) -> list[dict[str, Any]]:
    """An entry of `unsupported` for each primitive of one phase, in order of execution. Work that the counter does not
    know counts at least one operation per element made.
    """
    names = matched.flow.trace.parameters
    owned = {names[p.name][0] for claim in matched.claims for p in claim.parameters}
    return [
        _entry(matched, node, reason, weights, owned) for node, reason in matched.primitives.items()
    ]


def _entry(
    matched: Matched, node: fx.Node, reason: str, weights: Weights, owned: set[str]
) -> dict[str, Any]:
    flow = matched.flow
    where = flow.origin(node)
    kept = flow.pruning.of(where.module)
    used = dict.fromkeys(flow.trace.parameters[p.name][0] for p in _parameters(flow, node))
    names = [name for name in used if name not in owned]
    owned.update(names)
    return {
        "phase": flow.trace.phase,
        "primitive": targets.full_name(node),
        "count": kept.layer.count if kept else 1,
        "flops": format_expr(counted_flops(flow, node) or flow.numel(node)),
        "bytes": format_expr(_bytes(flow, node)),
        "weight_bytes": sum(weights.bytes(n) for n in names),
        "where": where.module,
        "source": where.source,
        "file": _as_imported(where.file),
        "line_text": linecache.getline(where.file, where.line).strip() if where.file else "",
        "nearest": _nearest(matched, node),
        "reason": reason,
        "module_class": where.module_class,
        "layer": kept.id if kept else "",
        "shape": _shapes(flow, node),
        "node": node.name,
    }


def _as_imported(file: str) -> str:
    """A file's path from the folder that Python imported it from: `transformers/models/...` on every machine."""
    folders = (os.path.join(os.path.abspath(folder), "") for folder in sys.path)
    within = [folder for folder in folders if file.startswith(folder)]
    return file.removeprefix(max(within, key=len)) if within else file


def counted_flops(flow: Flow, node: fx.Node) -> sympy.Expr:
    """FLOPs of a primitive by the counter's own conventions; 0 for packets that it does not know."""
    if targets.full_name(node) == "trace_model.attention":
        query, key, value = node.args[:3]
        batch, heads, new, head_dim = flow.shape(query)
        keys, window = flow.shape(key)[2], node.args[9]
        if window:
            keys = keys - P + sympy.Min(P, window - 1)
        return 2 * batch * heads * new * keys * (head_dim + flow.shape(value)[-1])
    if targets.full_name(node) == "aten.scaled_dot_product_attention":
        query, key, value = (flow.shape(v) for v in node.args[:3])
        return 2 * sympy.Mul(*query[:-1]) * key[-2] * (query[-1] + value[-1])
    if targets.full_name(node) in _PRODUCTS:
        first = node.args[1] if targets.base_name(node) in ("addmm", "baddbmm") else node.args[0]
        return 2 * flow.numel(node) * flow.shape(first)[-1]
    if targets.full_name(node) == "aten.einsum":
        return _einsum_flops(flow, node)
    if targets.full_name(node) in ("aten.convolution", "aten.conv1d", "aten.conv2d"):
        weight = flow.shape(node.args[1])
        return 2 * flow.numel(node) * sympy.Mul(*weight[1:])
    return sympy.Integer(0)


def _einsum_flops(flow: Flow, node: fx.Node) -> sympy.Expr:
    """torch contracts factors from left to right: a product of matrices where both hold a letter that vanishes."""
    terms, _, result = node.args[0].replace(" ", "").partition("->")
    letters = [list(term.replace("...", "")) for term in terms.split(",")]
    size: dict[str, sympy.Expr] = {}
    batch: list[str] = []
    for term, named, factor in zip(terms.split(","), letters, node.args[1], strict=True):
        shape = flow.shape(factor)
        where = term.find("...")
        unnamed = [f"...{i}" for i in reversed(range(len(shape) - len(named)))]
        named[where:where] = unnamed if where >= 0 else []
        batch += [name for name in unnamed if name not in batch]
        for name, length in zip(named, shape, strict=True):
            size[name] = length if size.get(name, sympy.Integer(1)) == 1 else size[name]
    kept = {*result.replace("...", ""), *(batch if "..." in result or not result else ())}
    if not result:  # implicit: letters that stand once, in alphabetical order
        kept |= {
            name for term in letters for name in term if sum(t.count(name) for t in letters) == 1
        }
    total, left = sympy.Integer(0), set(letters[0])
    for i, right in enumerate(map(set, letters[1:]), start=1):
        later = kept.union(*letters[i + 1 :])
        gone = (left | right) - later
        if gone & left & right:
            total += 2 * sympy.Mul(
                *(size[name] for name in (later | (left & right)) & (left | right))
            )
        left = (left | right) & later
    return total


def _bytes(flow: Flow, node: fx.Node) -> sympy.Expr:
    sources = [v for v in node.all_input_nodes if not targets.is_shape_arithmetic(v)]
    return sympy.Add(flow.bytes(node), *(flow.bytes(v) for v in sources))


def _parameters(flow: Flow, node: fx.Node) -> Iterator[fx.Node]:
    for value in node.all_input_nodes:
        if found := flow.parameter(value):
            yield found[0]


def _shapes(flow: Flow, node: fx.Node) -> str:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    shapes = [
        " x ".join(str(flow.trace.expr(s)) for s in v.shape)
        for v in values
        if isinstance(v, torch.Tensor)
    ]
    return ", ".join(shapes)


def _nearest(matched: Matched, node: fx.Node) -> str:
    """The op whose matcher looked at the node, else the kind its operands suggest."""
    refusals = matched.refusals.get(node)
    if refusals:
        return refusals[0].op
    flow = matched.flow
    if any(flow.role[v] is Role.PARAMETER and len(_dims(v)) == 2 for v in node.all_input_nodes):
        return "gemm"
    data = [v for v in node.all_input_nodes if flow.role[v] is Role.DATA]
    return "bmm" if len(data) > 1 and len({_dims(v) for v in data}) > 1 else "pointwise"


def _dims(node: fx.Node) -> tuple:
    value = node.meta.get("val")
    return tuple(str(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()
