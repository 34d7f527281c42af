"""Sizes worked out once: what an operator makes of tensors on the meta device follows from their sizes alone.

torch works out most of these in Python, at a tenth of a millisecond each, and a model asks the same of every layer, in
a dozen passes. Within `ShapeMemory`, a call that was made before, on tensors of the same sizes, strides and dtypes,
gets a new tensor like the one that torch made then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Buffer, Parameter
from torch.utils._python_dispatch import TorchDispatchMode

MOST = 50_000  # calls that are remembered, then all are forgotten
_PLAIN = frozenset([torch.Tensor, Parameter, Buffer])
_VALUES = frozenset(
    [int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format]
)  # fmt: skip

_made: dict[Any, Any] = {}
_pure: dict[torch._ops.OpOverload, bool] = {}


class _UnknownError(Exception):
    """An argument that no key tells from others."""


class ShapeMemory(TorchDispatchMode):
    """Within the context, calls on meta tensors that return one new tensor are worked out once."""

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not _is_pure(func):
            return func(*args, **kwargs)
        try:
            named = tuple((name, _key(value)) for name, value in kwargs.items())
            key = (func, torch.get_default_dtype(), tuple(map(_key, args)), named)
        except _UnknownError:
            return func(*args, **kwargs)
        known = _made.get(key)
        if known is not None:
            shape, stride, dtype = known
            return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        out = func(*args, **kwargs)
        if type(out) is torch.Tensor and out.is_meta and _is_new(out, (args, kwargs)):
            if len(_made) >= MOST:
                _made.clear()
            _made[key] = (tuple(out.shape), out.stride(), out.dtype)
        return out


def _is_pure(func: torch._ops.OpOverload) -> bool:
    """Whether the schema says that it returns one tensor, and that it writes to none and returns none that it got."""
    known = _pure.get(func)
    if known is None:
        schema = func._schema
        returns = schema.returns
        known = _pure[func] = (
            len(returns) == 1
            and isinstance(returns[0].type, torch.TensorType)
            and returns[0].alias_info is None
            and all(a.alias_info is None for a in schema.arguments)
        )
    return known


def _key(value: Any) -> Any:
    """What a result may depend on. Equal numbers of two types are two values."""
    kind = type(value)
    if kind in _PLAIN:
        if not value.is_meta or value.dtype.is_complex:
            raise _UnknownError
        return value.shape, value.stride(), value.dtype
    if kind in _VALUES:
        return kind, value
    if kind is list or kind is tuple:
        return tuple(map(_key, value))
    raise _UnknownError


def _is_new(out: torch.Tensor, given: Any) -> bool:
    """Whether a result has memory of its own: some composites return what they got, whatever their schema says."""
    own = out.untyped_storage()._cdata
    stack = [given]
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor):
            if value is out or value.untyped_storage()._cdata == own:
                return False
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple):
            stack.extend(value)
    return not (out.dtype.is_complex or out.storage_offset())
