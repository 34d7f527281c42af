"""The traced graph of each representative layer, as data for a picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tracer import assemble
from tracer.match import targets
from tracer.match.claim import Matched


def describe(matched: Matched) -> list[dict[str, Any]]:
    """An entry of `graphs` for each representative layer, and one for what lies outside the stacks."""
    flow = matched.flow
    groups = assemble.groups(matched)
    places: dict[str, list[fx.Node]] = {}
    for node in flow.nodes:
        kept = flow.pruning.of(flow.origin(node).module)
        places.setdefault(kept.id if kept else "", []).append(node)
    found = []
    for layer, nodes in places.items():
        kept = next((k for k in flow.pruning.kept if k.id == layer), None)
        number = {node: i for i, node in enumerate(nodes)}
        found.append(
            {
                "phase": flow.trace.phase,
                "layer": layer,
                "class": kept.layer.cls if kept else "",
                "count": kept.layer.count if kept else 1,
                "nodes": [
                    _node(matched, node, groups[node], kept.id if kept else "") for node in nodes
                ],
                "edges": [
                    [number[i], number[n]] for n in nodes for i in flow.inputs[n] if i in number
                ],
            }
        )
    return found


def _node(matched: Matched, node: fx.Node, group: tuple[str, Any], prefix: str) -> dict[str, Any]:
    origin = matched.flow.origin(node)
    value = node.meta.get("val")
    tensor = value if isinstance(value, torch.Tensor) else None
    return {
        "n": node.name,
        "t": targets.full_name(node),
        "shape": " x ".join(str(matched.flow.trace.expr(s)) for s in tensor.shape)
        if tensor is not None
        else "",
        "dtype": str(tensor.dtype).removeprefix("torch.") if tensor is not None else "",
        "module": origin.module.removeprefix(prefix).lstrip("."),
        "source": origin.source,
        "group": group[0],
        "g": group[1],
    }
