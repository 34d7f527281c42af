"""Idle parameters: those that no forward pass reads, such as the cross-attention of a decoder that runs alone.

A parameter is idle when no recorded call of either phase reads it, and a second witness agrees: the model at full depth
with its own functions instead of boundaries, whose every operator is watched for the memory of the parameter. So a
weight that a boundary or a matcher loses, or that only a layer without a representative reads, is never idle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tracer.cache import run
from tracer.conserve import as_written
from tracer.passes import Setting
from tracer.provenance import origin
from tracer.prune import Pruning, prefixes
from tracer.tensors import tensors
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
        self.order: dict[int, None] = {}
        self.current: dict[int, None] = {}
        self.layers: dict[str, list[int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors((args, kwargs)):
            self.order[_storage(tensor)] = self.current[_storage(tensor)] = None
        return func(*args, **kwargs)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def read_by_the_whole(
    model: nn.Module, pruning: Pruning, names: Collection[str], setting: Setting
) -> set[str]:
    """Those of these parameters that a layer of the full model reads which stands where they do, or the rest of it.

    All of them where the model does not run so: then nothing is known to be idle. One that another layer reads in the
    place of one that its representative reads (its own part of a shared block) is counted there, and is not among them.
    """
    reads = _Reads()
    try:
        with pruning.whole(), torch.no_grad(), as_written(model), _by_layer(model, pruning, reads):
            _run(model, reads, setting)
            read = {
                pruning.standing(name)
                for name, parameter in model.named_parameters()
                if _storage(parameter) in reads.order
            }
    except Exception:  # noqa: BLE001 - any failure of the model's own code
        return set(names)
    return (read & set(names)) - _counted_elsewhere(model, pruning, names, reads)


@contextmanager
def _by_layer(model: nn.Module, pruning: Pruning, reads: _Reads) -> Iterator[None]:
    """Within the context, what each layer reads on its first call goes to `reads.layers`."""
    handles = []
    for kept in pruning.kept:
        for i in kept.layer.indices:
            path = f"{kept.layer.stack}.{i}"

            def enter(_module: nn.Module, _args: Any) -> None:
                reads.current = {}

            def leave(_module: nn.Module, _args: Any, _out: Any, path: str = path) -> None:
                reads.layers.setdefault(path, list(reads.current))

            layer = model.get_submodule(path)
            handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _counted_elsewhere(
    model: nn.Module, pruning: Pruning, names: Collection[str], reads: _Reads
) -> set[str]:
    """Count parameters that a layer reads where its representative reads another of the same form under that one."""
    parameters = {_storage(p): (name, p) for name, p in model.named_parameters()}
    with pruning.whole():
        own = {_storage(p) for p in model.parameters()}
    twins: dict[int, set[int]] = {}
    for kept in pruning.kept:
        first = [r for r in reads.layers.get(kept.id, []) if r in own]
        for i in kept.layer.indices:
            other = [r for r in reads.layers.get(f"{kept.layer.stack}.{i}", []) if r in own]
            if len(other) == len(first):
                for a, b in zip(first, other, strict=True):
                    twins.setdefault(b, set()).add(a)
    found: set[str] = set()
    for storage, places in twins.items():
        name, parameter = parameters.get(storage, ("", None))
        if name not in names or len(places) != 1:
            continue
        holder, held = parameters.get(next(iter(places)), ("", None))
        if holder and holder not in names and held.shape == parameter.shape:
            pruning.copies[holder] += pruning.copies[name]
            pruning.copies[name] = 0
            found.add(name)
    return found


def _run(model: nn.Module, reads: _Reads, setting: Setting) -> None:
    b, s = WORKLOAD
    with setting.mode(), reads:
        _, cache = run(model, setting.ids(model, b, s))
        run(model, setting.ids(model, b, 1, s), cache)


def describe(
    names: Collection[str], weights: Weights, traces: Iterable[Trace]
) -> list[dict[str, Any]]:
    """An entry of `idle` for each module whose parameters are idle, the outermost that reads none of its own."""
    model, pruning = weights.model, weights.pruning
    ran = {origin(node).module for trace in traces for node in trace.graph.nodes}
    busy: set[str] = set()
    for name, _ in model.named_parameters():
        if name not in names:
            busy.update(prefixes(name))
    groups: dict[tuple[str, int], list[str]] = {}
    for name in names:
        own = name.rpartition(".")[0]
        module = next((p for p in prefixes(name) if p not in busy), own)
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
