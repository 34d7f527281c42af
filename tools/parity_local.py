"""The lists of one rank under a layout, in the vocabulary that both sides share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import sympy
from parity_lists import PHASES, Line, ours, reference
from parity_records import Json, Layout

from models.layout import Layout as Ranks
from models.sharding import shard
from oplib.errors import InvalidInputError
from oplib.op import Op
from oplib.oplist import OpList
from oplib.symbols import B, P, S, format_expr

COMMUNICATION = ("CustomAllReduce", "MoEDispatch", "NCCL")
ACTIVATION_BYTES = 2


def local_report(report: Json, layout: Layout) -> Json:
    """The report with the op list of one rank; InvalidInputError where the layout does not divide the model."""
    sizes = dict(layout)
    ranks = Ranks(tp=sizes["tp"], pp=sizes["pp"], ep=sizes["moe_ep"], dp=sizes["dp"])
    experts = any(op["op"] == "moe" for op in report["op_list"]["phases"]["context"])
    if experts and ranks.moe_tp != sizes["moe_tp"]:
        raise InvalidInputError(f"{ranks} shares each expert among {ranks.moe_tp} ranks.")
    (stage,) = shard(OpList.from_json(report["op_list"]), ranks, [])
    return {**report, "op_list": stage.to_json()}


def our_lines(report: Json) -> list[Line]:
    """The lines of ours, as they are compared by price."""
    return [_alike(line) for line in ours(report, sent=True)]


def reference_lines(entry: Json) -> list[Line]:
    """Those of the reference, what its ranks send included."""
    lines = [_alike(line) for line in reference(entry)]
    return lines + [line for phase in PHASES for line in _sent(entry[f"{phase}_ops"], phase)]


def _alike(line: Line) -> Line:
    """Logits are a GEMM, a part of a vocabulary costs as the whole, and nothing is cached before a prompt."""
    if line.kind == "logits":
        line = replace(line, kind="gemm")
    if line.kind == "embedding":
        line = replace(line, shape=tuple(item for item in line.shape if item[0] == "width"))
    if "p" in line.rows and line.phase == "context":
        rows = Op.from_json(line.op).dims["m"].subs({P: 0})
        line = replace(line, rows=format_expr(rows).replace(" ", ""))
    if line.kind in ("all_reduce", "all_to_all"):
        op = Op.from_json(line.op)
        line = replace(line, shape=_message(line.kind, op.params["num_gpus"], op.dims["bytes"]))
    return line


def _message(kind: str, gpus: Any, size: sympy.Expr) -> tuple[tuple[str, int | str], ...]:
    """An exchange of experts is one shape, whatever way its messages are cut."""
    shape: tuple[tuple[str, int | str], ...] = (("gpus", int(gpus)),)
    return shape if kind == "all_to_all" else (*shape, ("bytes", format_expr(size)))


def _sent(ops: list[Json], phase: str, block: str = "", stream: str = "") -> Iterator[Line]:
    for op in ops:
        for part, inner in op.get("children", {}).items():
            yield from _sent(inner, phase, block or op["name"], stream or part)
        if op["op"] in COMMUNICATION and op["scale_factor"]:
            yield from _sending(op, phase, block or op["name"], stream)


def _sending(op: Json, phase: str, block: str, stream: str) -> Iterator[Line]:
    """A sum over ranks; with attention data parallel, an exchange of tokens with the ranks of the experts."""
    p = op["params"]
    gpus = p.get("tp_size") or p.get("num_gpus") or p["moe_tp_size"] * p["moe_ep_size"]
    if gpus == 1:
        return
    tokens = B * S if phase == "context" else B
    kind = "all_to_all" if p.get("attention_dp_size", 1) > 1 else "all_reduce"
    size = ACTIVATION_BYTES * p.get("hidden_size", 0) * tokens
    yield Line(
        phase=phase,
        kind=kind,
        shape=_message(kind, gpus, size),
        count=round(op["scale_factor"]),
        name=op["name"].removeprefix(f"{phase}_"),
        op=op,
        block=block,
        stream=stream,
    )
