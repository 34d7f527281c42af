"""Source: where kernels get their random inputs from, fresh ones for checks and views of one pool for timing.

A call of `activation` gives what the op before has just written, which a cache may hold; `weight` gives what lies in
memory since long: weights, caches and states. Timing rotates the latter, so that no call finds it in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

_ALIGN = 256  # bytes: what the CUDA allocator aligns to, so that views run as fast as allocations
_BASE = 1 << 22  # random elements that a pool is filled with, over and over


class Source(Protocol):
    """Random tensors on `device`."""

    device: torch.device

    def activation(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Normal values that the op before wrote: the same tensor in every set."""

    def weight(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Normal values that were not touched lately: another tensor in every set."""

    def uniform(
        self, shape: Sequence[int], low: float, high: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """Values between two limits, made anew."""

    def integers(self, shape: Sequence[int], high: int) -> torch.Tensor:
        """int64 values from 0 to `high` - 1, made anew."""


class FreshSource:
    """Tensors of their own, from a seed: what checks use, where every value counts."""

    def __init__(self, device: torch.device | str, seed: int) -> None:
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def activation(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        values = torch.randn(tuple(shape), generator=self._generator, device=self.device)
        return values.to(dtype)

    weight = activation

    def uniform(
        self, shape: Sequence[int], low: float, high: float, dtype: torch.dtype
    ) -> torch.Tensor:
        values = torch.rand(tuple(shape), generator=self._generator, device=self.device)
        return (low + (high - low) * values).to(dtype)

    def integers(self, shape: Sequence[int], high: int) -> torch.Tensor:
        return torch.randint(high, tuple(shape), generator=self._generator, device=self.device)


class PoolSource(FreshSource):
    """Views of one buffer of random values per dtype: no allocation and no kernel for an input, and rotation for free.

    `begin_case` forgets the activations, `begin_set` starts the next of several sets of inputs. Tensors of one set
    never overlap; sets do once the buffer is used up. A set that does not fit makes the buffer grow up to `limit` bytes
    and is a MemoryError beyond.
    """

    def __init__(
        self, device: torch.device | str, seed: int, *, start: int = 1 << 26, limit: int = 1 << 33
    ) -> None:
        super().__init__(device, seed)
        self.limit = limit
        self._start = start
        self._buffers: dict[torch.dtype, torch.Tensor] = {}
        self._offsets: dict[torch.dtype, int] = {}
        self._used: dict[torch.dtype, int] = {}
        self._activations: list[torch.Tensor] = []
        self._place = 0
        self.cold_bytes = 0

    def begin_case(self) -> None:
        """Forget the activations of the case before."""
        self._activations.clear()
        self.begin_set()

    def begin_set(self) -> None:
        """The next tensors are those of another set; `cold_bytes` counts its weights from here."""
        self._place, self.cold_bytes = 0, 0
        self._used.clear()

    def activation(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        if self._place == len(self._activations):
            self._activations.append(self._view(shape, dtype))
        self._place += 1
        return self._activations[self._place - 1]

    def weight(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        view = self._view(shape, dtype)
        self.cold_bytes += view.numel() * view.element_size()
        return view

    def _view(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        count = 1
        for size in shape:
            count *= size
        step = _ALIGN // dtype.itemsize
        padded = -(-count // step) * step
        used = self._used.get(dtype, 0) + padded
        buffer = self._buffer(dtype, used)
        self._used[dtype] = used
        offset = self._offsets.get(dtype, 0)
        if offset + padded > buffer.numel():
            # what is skipped at the end is not there for this set: a set that wraps needs the room once more
            buffer = self._buffer(dtype, used + padded)
            offset = 0
        self._offsets[dtype] = offset + padded
        return buffer[offset : offset + count].view(tuple(shape))

    def _buffer(self, dtype: torch.dtype, elements: int) -> torch.Tensor:
        buffer = self._buffers.get(dtype)
        if buffer is not None and buffer.numel() >= elements:
            return buffer
        needed = elements * dtype.itemsize
        if needed > self.limit:
            raise MemoryError(f"a set of inputs of {needed} bytes is over {self.limit}")
        size = min(max(self._start, needed + needed // 4), self.limit) // dtype.itemsize
        self._offsets[dtype] = 0
        base = super().activation((min(size, _BASE),), dtype)
        grown = torch.empty(size, dtype=dtype, device=self.device)
        for start in range(0, size, base.numel()):
            end = min(start + base.numel(), size)
            grown[start:end].copy_(base[: end - start])
        self._buffers[dtype] = grown
        return grown
