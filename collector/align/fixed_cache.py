"""A cache whose memory is there before the call: new tokens are written behind the cached ones, as engines do.

transformers' growing cache copies all cached tokens in each step, and its static one hands out more keys than there are
tokens, with a mask. Here a layer's memory holds exactly the cached tokens and the new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicLayer

from tracer.submodule_inputs import Call
from tracer.tensors import tensors


class _Fixed:
    """Mixed into a class of cache layers: `update` writes into memory that the first call, not compiled, has made."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own: Any = self  # Any: the attributes are those of the class that this is mixed into
        if not hasattr(self, "fixed"):
            own.fixed = [
                _room(old, new) for old, new in ((own.keys, key_states), (own.values, value_states))
            ]
            if own.keys is not None:  # the same tokens need no second place
                own.keys, own.values = (
                    whole[:, :, : whole.shape[2] - key_states.shape[2]] for whole in own.fixed
                )
        keys, values = own.fixed
        start = keys.shape[2] - key_states.shape[2]
        keys[:, :, start:].copy_(key_states)
        values[:, :, start:].copy_(value_states)
        return keys, values


def _room(old: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
    cached = 0 if old is None or not old.numel() else old.shape[2]
    whole = new.new_empty(*new.shape[:2], cached + new.shape[2], new.shape[3])
    if old is not None and cached:
        whole[:, :, :cached].copy_(old)
    return whole


_CLASSES: dict[type, type] = {}


def prepare(call: Call, module: nn.Module) -> tuple[Any, Callable[[], None]]:
    """Give the cache of a call its memory by one call of the module, and bring it back.

    What the module returned, and a function that brings the values of states back after further calls.
    """
    _fix(call.cache)
    layers = list(_layers(call.cache))
    before = [_stamps(layer) for layer in layers]
    flags = [copy.copy(getattr(layer, "has_previous_state", None)) for layer in layers]
    values = [(t, t.clone()) for layer in layers for t in _states(layer)]
    returned = call.run(module)
    for layer, flag, stamps in zip(layers, flags, before, strict=True):
        layer.written = _stamps(layer) != stamps
        if flag is not None:
            layer.has_previous_state = flag
    call.remember(())

    def restore() -> None:
        for state, value in values:
            state.copy_(value)

    restore()
    return returned, restore


def _fix(cache: Any) -> None:  # Any: a cache of transformers
    """Exchange the growing layers of a cache, in place."""
    for place, layer in enumerate(getattr(cache, "layers", None) or ()):
        own = type(layer)
        if isinstance(layer, DynamicLayer) and not isinstance(layer, _Fixed):
            if own not in _CLASSES:
                _CLASSES[own] = type(f"Fixed{own.__name__}", (_Fixed, own), {})
            fixed: Any = object.__new__(_CLASSES[own])
            vars(fixed).update(vars(layer))
            cache.layers[place] = fixed


def another(call: Call) -> Call:
    """The same call over a cache of its own; activations, and layers that the module does not write, are shared."""
    call.reset()  # what a call has left behind is no part of it
    kept = {id(t) for layer in _layers(call.cache) if layer.written for t in _held(layer)}
    whole = [*tensors([call.args, call.kwargs])]
    whole += [t for layer in _layers(call.cache) for t in _held(layer)]
    memo: dict[int, Any] = {id(t): t for t in whole if id(t) not in kept}
    args, kwargs, cache = copy.deepcopy((call.args, call.kwargs, call.cache), memo)
    made = Call(args=args, kwargs=kwargs, cache=cache)
    made.remember(())
    return made


def cache_bytes(call: Call) -> int:
    """Bytes of what the module's own layers of the cache hold: keys and values with the new tokens, states."""
    written = [t for layer in _layers(call.cache) if layer.written for t in _held(layer)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in written}
    return sum(storages.values())


def _layers(cache: Any) -> Iterator[Any]:  # Any: caches of transformers
    yield from getattr(cache, "layers", None) or ()


def _held(layer: Any) -> Iterator[torch.Tensor]:
    yield from tensors(list(vars(layer).values()))


def _states(layer: Any) -> Iterator[torch.Tensor]:
    """What a step writes over: states of a fixed size."""
    yield from tensors([getattr(layer, "conv_states", {}), getattr(layer, "recurrent_states", {})])


def _stamps(layer: Any) -> list[tuple[int, int]]:
    """Which tensors a layer holds and how often each was written."""
    return [(id(t), t._version) for t in _held(layer)]
