"""Bytes alive at once while a real model runs: every storage from the operator that makes it until Python frees it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tracer.tensors import tensors


class Living(TorchDispatchMode):
    """Counts storages that operators make inside it. `peak` is the most that was alive at once, those that `leave`
    names not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self._events: list[
            tuple[int, int]
        ] = []  # (storage number, bytes: negative when it is freed)
        self._known: dict[int, int] = {}
        self._count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tensors([*args, *(kwargs or {}).values()])}
        out = func(*args, **(kwargs or {}))
        for tensor in tensors([out]):
            storage = tensor.untyped_storage()
            if storage._cdata in given or storage._cdata in self._known:
                continue
            number, self._count = self._count, self._count + 1
            self._known[storage._cdata] = number
            size = storage.nbytes()
            self._events.append((number, size))
            weakref.finalize(storage, self._free, storage._cdata, number, size)
        return out

    def _free(self, key: int, number: int, size: int) -> None:
        self._known.pop(key, None)
        self._events.append((number, -size))

    def peak(self, leave: list[torch.Tensor]) -> int:
        """The most bytes alive at once without the storages of these tensors."""
        left = {self._known.get(t.untyped_storage()._cdata) for t in leave}
        most = alive = 0
        for number, size in self._events:
            alive += 0 if number in left else size
            most = max(most, alive)
        return most
