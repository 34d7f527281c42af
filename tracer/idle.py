"""Idle parameters: those that no forward pass reads, such as the cross-attention of a decoder that runs alone.

A parameter is idle when no recorded call of either phase reads it, and a second witness agrees: the model at full depth
with its own functions instead of boundaries, whose every operator is watched for the memory of the parameter. So a
weight that a boundary or a matcher loses, or that only a layer without a representative reads, is never idle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tracer.cache import run
from tracer.conserve import as_written
from tracer.provenance import origin
from tracer.prune import Pruning
from tracer.trace import Trace
from tracer.weights import Weights

#: Batch and new tokens of the second witness's context pass; a generation step follows.
WORKLOAD = (1, 3)


def unread(model: nn.Module, traces: Iterable[Trace]) -> list[str]:
    """Names of the parameters that no recorded call reads."""
    read = {name for trace in traces for name, _ in trace.parameters.values()}
    return [name for name, _ in model.named_parameters() if name not in read]


class _Reads(TorchDispatchMode):
    """The memory that operators are handed."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _inside((args, kwargs)):
            self.storages.add(_storage(tensor))
        return func(*args, **kwargs)


def _inside(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _inside(part)
    elif isinstance(value, dict):
        yield from _inside(list(value.values()))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def read_by_the_whole(
    model: nn.Module, pruning: Pruning, names: Collection[str], *, fake: bool
) -> set[str]:
    """Those of these parameters that a layer of the full model reads which stands where they do, or the rest of it.

    All of them where the model does not run so: then nothing is known to be idle.
    """
    with pruning.whole(), torch.no_grad(), as_written(model):
        reads = _Reads()
        try:
            _run(model, reads, fake=fake)
        except Exception:  # noqa: BLE001 - any failure of the model's own code
            return set(names)
        wanted = set(names)
        return {
            stands for name, parameter in model.named_parameters()
            if (stands := pruning.standing(name)) in wanted and _storage(parameter) in reads.storages
        }  # fmt: skip


def _run(model: nn.Module, reads: _Reads, *, fake: bool) -> None:
    b, s = WORKLOAD
    device = next(model.parameters()).device
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(), reads:
        ids = torch.zeros(b, s, dtype=torch.long, device=device)
        _, cache = run(model, ids)
        run(model, ids[:, :1], cache)


def describe(
    names: Collection[str], weights: Weights, traces: Iterable[Trace]
) -> list[dict[str, Any]]:
    """An entry of `idle` for each module whose parameters are idle, the outermost that reads none of its own."""
    model, pruning = weights.model, weights.pruning
    ran = {origin(node).module for trace in traces for node in trace.graph.nodes}
    busy: set[str] = set()
    for name, _ in model.named_parameters():
        if name not in names:
            busy.update(_prefixes(name))
    groups: dict[tuple[str, int], list[str]] = {}
    for name in names:
        own = name.rpartition(".")[0]
        module = next((p for p in _prefixes(name) if p not in busy), own)
        groups.setdefault((module, pruning.copies.get(name, 1)), []).append(name)
    return [
        {
            "module": module,
            "class": type(model.get_submodule(module)).__name__,
            "parameters": [name.removeprefix(module).lstrip(".") for name in members],
            "count": count,
            "bytes": count * sum(weights.bytes(name) for name in members),
            "note": "the module runs and does not read them"
            if any(r == module or r.startswith(module + ".") for r in ran)
            else "no forward pass enters the module",
        }
        for (module, count), members in groups.items()
    ]


def _prefixes(name: str) -> Iterator[str]:
    """The modules that a parameter lies in, outermost first."""
    steps = name.split(".")
    for i in range(1, len(steps)):
        yield ".".join(steps[:i])
