"""What each layer of a stack calls, for layers that compute with their own index: whether it changes more than numbers.

Every layer runs, in both phases. Two layers are of one kind where their calls are the same operators on the same
tensors of the same sizes, whole numbers but the index itself included; only fractions may differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tracer import provenance
from tracer.cache import run
from tracer.passes import alone, setting_of
from tracer.recorder import Call, Recorder

BATCH, TOKENS = 2, 517
Signature = tuple[Any, ...]  # nested, hashable


def split(
    model: nn.Module, groups: Mapping[str, Sequence[Sequence[int]]]
) -> dict[str, list[list[int]]]:
    """The groups of layers of each stack, parted where members do not make the same calls. Raises RuntimeError where a
    layer makes none: nothing is known of it.
    """
    layers = {f"{path}.{i}" for path, found in groups.items() for g in found for i in g}
    context, generation = (_signatures(calls, layers) for calls in _passes(model))
    if silent := layers - context.keys() - generation.keys():
        raise RuntimeError(f"{min(silent)} makes no calls")
    parted: dict[str, list[list[int]]] = {}
    for path, found in groups.items():
        made = {
            i: (context.get(f"{path}.{i}"), generation.get(f"{path}.{i}")) for g in found for i in g
        }
        parted[path] = [part for group in found for part in _parts(group, made)]
    return parted


def _parts(group: Sequence[int], made: Mapping[int, Any]) -> list[list[int]]:
    parts: list[list[int]] = []
    for i in group:
        mine = next((p for p in parts if _alike(made[p[0]], made[i], (p[0], i))), None)
        if mine is None:
            parts.append([i])
        else:
            mine.append(i)
    return parts


def _alike(one: Any, other: Any, index: tuple[int, int]) -> bool:
    """Whether two arguments, or calls, are the same but for the index of the layer."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(
            _alike(a, b, index) for a, b in zip(one, other, strict=True)
        )
    if type(one) is int and type(other) is int:
        return one == other or (one, other) == index
    return bool(one == other)


def _passes(model: nn.Module) -> Iterator[list[Call]]:
    """The calls of a pass over fresh tokens, and of one for the token after them."""
    with alone(model):
        setting = setting_of(model)
        cache: Any = None
        for s, p in ((TOKENS, 0), (1, TOKENS)):
            with provenance.recorded(model) as locate, setting.mode():
                recorder = Recorder(locate)
                with recorder:
                    _, cache = run(model, setting.ids(model, BATCH, s, p), cache)
            yield recorder.calls


def _signatures(calls: Sequence[Call], layers: Collection[str]) -> dict[str, Signature]:
    """What each layer calls: operators, arguments, and the sizes and types of results."""
    made: dict[str, dict[int, tuple[int, int]]] = {}
    found: dict[str, list[Signature]] = {}
    for call in calls:
        layer = _layer(call.origin.module, layers)
        if layer:
            own, row = made.setdefault(layer, {}), found.setdefault(layer, [])
            given = _plain(call.args, own), _plain(call.kwargs, own)
            sizes = tuple((str(tuple(v.shape)), v.dtype) for v in call.values)
            own.update({id(v): (len(row), i) for i, v in enumerate(call.values)})
            row.append((call.func, given, sizes))
    return {layer: tuple(row) for layer, row in found.items()}


def _layer(module: str, layers: Collection[str]) -> str:
    steps = module.split(".")
    paths = (".".join(steps[:i]) for i in range(1, len(steps) + 1))
    return next((p for p in paths if p in layers), "")


def _plain(value: Any, own: Mapping[int, tuple[int, int]]) -> Any:
    """An argument as what two layers share: where in the layer a tensor was made, and its sizes; a fraction is any."""
    if isinstance(value, torch.Tensor):
        return str(own.get(id(value))), str(tuple(value.shape)), value.dtype
    if isinstance(value, list | tuple):
        return tuple(_plain(v, own) for v in value)
    if isinstance(value, Mapping):
        return tuple((name, _plain(v, own)) for name, v in value.items())
    if isinstance(value, float):
        return float
    return value if type(value) is int else repr(value)
