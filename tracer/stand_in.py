"""Stand-ins: layers that compute nothing, where a representative of their structure does.

A stand-in returns what its representative returned last, but for the tensors that the layer maps to themselves (hidden
states, streams of them): those are its own inputs, behind one node that marks the skipped layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tracer.boundaries.skipped import skipped
from tracer.tensors import tensors

Group = list[int]


class StandIns:
    """Stand-ins in stacks of layers, from the indices of the layers of each structure: the first of them is itself."""

    def __init__(self, model: nn.Module, stacks: list[tuple[nn.ModuleList, list[Group]]]) -> None:
        self._parts: list[tuple[nn.Module, dict[str, Any], dict[str, Any], Callable]] = []
        self._marked: torch.Tensor | None = None
        self._slots: dict[int, dict[int, int]] = {}
        for stack, groups in stacks:
            for first, *others in groups:
                last: dict[str, Any] = {}
                if others:
                    stack[first].register_forward_hook(_remember(last), with_kwargs=True)
                for i in others:
                    layer = stack[i]
                    self._parts.append(
                        (layer, dict(layer._modules), dict(layer._parameters), self._forward(last))
                    )
                    self._slots.setdefault(len(stack), {})[i] = first
        if self._parts:
            model.register_forward_hook(lambda _m, _a, out: self._share_slots(out))
        self._place()

    def _share_slots(self, out: Any) -> None:
        """In the cache that a pass leaves, the slot of a stand-in is its representative's: filled, when that is."""
        for name in ("past_key_values", "cache_params"):
            slots = getattr(getattr(out, name, None), "layers", None)
            if isinstance(slots, list):
                for i, first in self._slots.get(len(slots), {}).items():
                    if next(tensors(vars(slots[i])), None) is None:
                        slots[i] = slots[first]

    def _place(self) -> None:
        for layer, modules, _, forward in self._parts:
            layer._modules.clear()
            layer._parameters.clear()
            vars(layer).update({name: _Held(m) for name, m in modules.items() if m is not None})
            vars(layer)["forward"] = forward

    @contextmanager
    def withdrawn(self) -> Iterator[None]:
        """Within the context, every layer is itself."""
        for layer, modules, parameters, _ in self._parts:
            for name in ("forward", *(n for n, m in modules.items() if m is not None)):
                del vars(layer)[name]
            layer._modules.update(modules)
            layer._parameters.update(parameters)
        try:
            yield
        finally:
            self._place()

    def _forward(self, last: dict[str, Any]) -> Callable:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not last:
                raise RuntimeError("a layer runs before the layer that stands for it")
            return _passed_on(last["out"], last["shape"], list(_tensors(args, kwargs)), self._mark)

        return forward

    def _mark(self, tensor: torch.Tensor) -> torch.Tensor:
        """Behind one node, however many layers are skipped in a row."""
        if tensor is not self._marked:
            self._marked = skipped(tensor)
        return self._marked


class _Held:
    """A part of a layer that computes nothing: a model may look at it and set it up, but not run it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @property  # type: ignore[misc]  # what `isinstance` asks: a type of which this is no subclass
    def __class__(self) -> type:
        return type(self._module)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        return _Held(value) if isinstance(value, nn.Module) else value


def _remember(last: dict[str, Any]) -> Callable:
    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        hidden = next(_tensors(args, kwargs), None)
        last.update(out=out, shape=None if hidden is None else hidden.shape)

    return hook


def _tensors(args: tuple, kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors that a layer is called with, in order, hidden states named so first."""
    if "hidden_states" in kwargs:
        yield kwargs["hidden_states"]
    for value in (*args, *(v for name, v in kwargs.items() if name != "hidden_states")):
        if isinstance(value, torch.Tensor):
            yield value


def _passed_on(
    out: Any,
    shape: torch.Size | None,
    given: list[torch.Tensor],
    mark: Callable[[torch.Tensor], Any],
) -> Any:
    """`out` with its tensors of the shape of the hidden states replaced by the given ones of that shape, in order."""
    own = (t for t in given if t.shape == given[0].shape)
    replaced = 0

    def part(value: Any) -> Any:
        nonlocal replaced
        if isinstance(value, torch.Tensor) and value.shape == shape:
            mine = next(own, None)
            replaced += 1
            return value if mine is None else mark(mine)
        return value

    result: Any
    if isinstance(out, list | tuple):
        parts = [part(v) for v in out]
        result = type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)
    elif isinstance(out, Mapping):
        result = type(out)(**{name: part(v) for name, v in out.items()})
    else:
        result = part(out)
    if not replaced:
        raise RuntimeError("a layer does not return hidden states of the shape that it takes")
    return result
