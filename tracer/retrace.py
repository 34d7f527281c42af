"""Symbolic evaluation against re-tracing: another pass, and whether every size is what its expression says there.

A trace reads its sizes off one workload and confirms them at a second. Here the model runs once more at a workload that
neither knows; every call must be the same operator, and every size of its results the value of the expression.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from oplib.symbols import evaluate, format_expr
from tracer.provenance import NOWHERE
from tracer.recorder import Call
from tracer.sizes import BLOCK, Different
from tracer.tensors import tensors
from tracer.trace import Capture, Trace, run_concrete

#: Workloads that a trace has not seen. Where the model branches on sizes they are as long as the ones it has, and of
#: whole blocks where those are.
ANY = ({"b": 3, "s": 77, "p": 345}, {"b": 2, "s": 1001, "p": 130})
LONG = (
    {"b": 5, "s": BLOCK * 37, "p": BLOCK * 7919},
    {"b": 3, "s": BLOCK * 211 + 5, "p": BLOCK * 4001 + 77},
)
WHOLE = (LONG[0], {"b": 3, "s": BLOCK * 211, "p": BLOCK * 4001})


def unseen(trace: Trace) -> tuple[dict[str, int], ...]:
    """Workloads at which the graph of this trace has to hold, other than those it was read off: within the positions
    that the model has, and of no more new tokens than the trace says.
    """
    limit = trace.setting.positions
    if limit:
        found = (
            {"b": 3, "s": limit // 7, "p": limit // 3},
            {"b": 2, "s": limit // 2, "p": limit // 9},
        )
    elif trace.branches:
        found = WHOLE if trace.whole_blocks else LONG
    else:
        found = ANY
    most = 1 if trace.phase == "generation" else trace.longest
    return tuple({**w, "s": min(w["s"], most or w["s"])} for w in found)


def retrace(
    model: nn.Module, captured: Capture, trace: Trace, workload: Mapping[str, int]
) -> list[str]:
    """Run the model at a workload and say where the trace, evaluated there, differs; empty where it holds."""
    nodes = [
        n for n in trace.graph.nodes if n.op == "call_function" and n.target is not operator.getitem
    ]
    expected = [Call(n.target, (), {}, None, (), NOWHERE) for n in nodes]
    as_traced = replace(captured, setting=trace.setting)
    try:
        found = run_concrete(model, as_traced, workload, expected=expected)
    except Different as other:
        return [f"{other}, {dict(workload)}"]
    if len(found.calls) != len(nodes):
        return [f"{len(found.calls)} calls at {dict(workload)}, the trace has {len(nodes)}"]
    values: dict[Any, int] = {}  # Any: a size of the trace, a number or a symbol

    def value(size: Any) -> int:
        if size not in values:
            values[size] = evaluate(trace.expr(size), **workload)
        return values[size]

    differences = []
    for node, call in zip(nodes, found.calls, strict=True):
        for old, new in zip(tensors(node.meta["val"]), call.values, strict=True):
            if tuple(map(value, old.shape)) != tuple(new.shape):
                said = " x ".join(str(format_expr(trace.expr(size))) for size in old.shape)
                differences.append(
                    f"{node.name}: {tuple(new.shape)} is not {said}, {dict(workload)}"
                )
            elif old.dtype is not new.dtype:
                differences.append(f"{node.name}: {new.dtype} is not {old.dtype}, {dict(workload)}")
    return differences
