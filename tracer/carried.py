"""What models without a usual cache carry from one forward pass to the next.

Some return it under the name of another argument of their forward (`state`, `mems`), some fill a cache that they are
handed and do not return it, some hold it in attributes of their modules, and some carry nothing, so that every pass
reads all tokens again.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from tracer.tensors import tensors

Held = dict[str | int, Any]  # nested by module path, tensors at the attributes
_Snapshot = dict[tuple[str, str], tuple[torch.Tensor, int]]


@dataclass(kw_only=True)
class Carried:
    """`arguments` are what a forward takes under these names, `held` is what lies in attributes of modules, nested by
    module path. Where both are empty, the next pass reads all tokens again.
    """

    arguments: dict[str, Any]  # caches, lists of tensors
    held: Held

    @property
    def is_empty(self) -> bool:
        """Whether nothing is carried on."""
        return not (self.arguments or self.held)


def beginning(model: nn.Module) -> Carried:
    """What a pass over fresh tokens begins with: an empty cache where the forward takes one, or nothing."""
    taken = inspect.signature(type(model).forward).parameters
    handed = (
        {"past_key_values": DynamicCache(config=model.config)} if "past_key_values" in taken else {}
    )
    return Carried(arguments=handed, held={})


def next_pass(
    model: nn.Module, input_ids: torch.Tensor, carried: Carried
) -> tuple[torch.Tensor, Carried]:
    """Logits of a pass over what an earlier one carried on, or over a `beginning`, and what it carries on itself."""
    with state_kept(model):
        _hold(model, carried.held)
        before = _snapshot(model)
        out = model(input_ids=input_ids, use_cache=True, **carried.arguments)
        held = _changed(model, before, carried.held, batch=input_ids.shape[0])
    taken = inspect.signature(type(model).forward).parameters
    arguments = {n: out[n] for n in taken if n in out and out[n] is not None}
    if not arguments:
        arguments = {n: v for n, v in carried.arguments.items() if _is_filled(v)}
    return out.logits, Carried(arguments=arguments, held=held)


@contextlib.contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """What a forward pass leaves on its modules (tables of positions, say) is gone afterwards.

    Modules that it put in the places of others stay, and with them the settings by which the model knows of it: such a
    model is another one from its first pass on, and every pass over a filled cache comes after that.
    """
    saved = [_Saved(module) for module in model.modules()]
    try:
        yield
    except BaseException:
        for one in saved:
            one.restore()
        raise
    replaced = any(one.has_other_modules for one in saved)
    for one in saved:
        one.restore(settled=replaced)


class _Saved:
    """What a module holds before a pass: attributes, buffers and the modules inside it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._attributes = dict(vars(module))
        self._buffers, self._modules = dict(module._buffers), dict(module._modules)

    @property
    def has_other_modules(self) -> bool:
        """Whether it holds other modules by now."""
        return self._module._modules != self._modules

    def restore(self, *, settled: bool = False) -> None:
        """Put everything back, but for modules, strings and flags where the pass has `settled` what the model is."""
        module, attributes = self._module, vars(self._module)
        kept = {n: v for n, v in attributes.items() if settled and isinstance(v, str | bool)}
        attributes.clear()
        attributes.update(self._attributes | kept)
        _refill(module._buffers, self._buffers)
        if not settled:
            _refill(module._modules, self._modules)


def _refill(held: dict[str, Any], before: Mapping[str, Any]) -> None:
    held.clear()
    held.update(before)


def _is_filled(cache: Any) -> bool:
    return next(tensors([vars(layer) for layer in cache.layers]), None) is not None


def _tensors(model: nn.Module) -> Iterator[tuple[tuple[str, str], torch.Tensor]]:
    for path, module in model.named_modules():
        for name, value in (*vars(module).items(), *module._buffers.items()):
            if isinstance(value, torch.Tensor):
                yield (path, name), value


def _snapshot(model: nn.Module) -> _Snapshot:
    return {key: (tensor, tensor._version) for key, tensor in _tensors(model)}


def _changed(model: nn.Module, before: _Snapshot, held: Held, *, batch: int) -> Held:
    """Tensors with a batch that a pass put on modules or wrote into, and those that were held before."""
    found: Held = {}
    for key, tensor in _tensors(model):
        earlier, version = before.get(key, (None, -1))
        new = tensor is not earlier or tensor._version != version
        if batch in tensor.shape and (new or _is_held(held, key)):
            *path, name = _steps(*key)
            place = found
            for step in path:
                place = place.setdefault(step, {})
            place[name] = tensor
    return found


def _steps(path: str, name: str) -> list[str | int]:
    return [int(s) if s.isdigit() else s for s in (*path.split("."), name) if s]


def _is_held(held: Held, key: tuple[str, str]) -> bool:
    place: Any = held
    for step in _steps(*key):
        if not isinstance(place, Mapping) or step not in place:
            return False
        place = place[step]
    return True


def _hold(model: nn.Module, held: Held, path: str = "") -> None:
    """Put held tensors back on their modules."""
    for step, value in held.items():
        if isinstance(value, torch.Tensor):
            module = model.get_submodule(path)
            home = module._buffers if step in module._buffers else vars(module)
            home[str(step)] = value
        else:
            _hold(model, value, f"{path}.{step}" if path else str(step))
