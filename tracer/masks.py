"""Indexing by a mask, where no tensor has values: the mask is taken to select all.

That holds for masks of padding, of languages, of complete blocks. It does not hold for masks that say which tokens an
expert or a branch gets: those come from a choice between scores, and indexing by them stays an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch

from tracer.tensors import tensors

_aten = torch.ops.aten
#: Choices between scores, where the scores are floating point numbers.
_CHOICES = frozenset(
    getattr(_aten, name)
    for name in (
        "topk",
        "sort",
        "argsort",
        "argmax",
        "argmin",
        "max",
        "min",
        "multinomial",
        "gt",
        "ge",
        "lt",
        "le",
    )
)
_SCATTERS = frozenset([_aten.scatter, _aten.scatter_, _aten.scatter_add, _aten.scatter_add_])
_INDEXED = frozenset([_aten.index, _aten.index_put, _aten.index_put_, _aten._unsafe_index])


class Masks:
    """Follows which integers and masks come from a choice between scores."""

    def __init__(self) -> None:
        self._chosen: dict[int, weakref.ref] = {}

    def follow(self, func: torch._ops.OpOverload, args: tuple[Any, ...], out: Any) -> None:
        """Learn from a call what its results come from."""
        given, results = list(tensors(args)), list(tensors(out))
        packet = func.overloadpacket
        if packet in _CHOICES and given and given[0].dtype.is_floating_point:
            self._mark(t for t in results if not t.dtype.is_floating_point)
        elif any(self._is_chosen(t) for t in given):
            view = func.is_view or packet in _SCATTERS
            self._mark(t for t in results if view or not t.dtype.is_floating_point)

    def whole(self, func: torch._ops.OpOverload, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The arguments of an indexing call with all positions in the place of masks; None where it has no mask, or one
        that comes from a choice.
        """
        if func.overloadpacket not in _INDEXED:
            return None
        masks = [t for t in args[1] if t is not None and t.dtype == torch.bool]
        if not masks or any(self._is_chosen(t) for t in masks):
            return None
        positions: list[torch.Tensor | None] = []
        for t in args[1]:
            if t is None or t.dtype != torch.bool:
                positions.append(t)
            else:
                positions += [t.new_empty(t.numel(), dtype=torch.long) for _ in range(t.dim())]
        return (args[0], positions, *args[2:])

    def _mark(self, found: Iterable[torch.Tensor]) -> None:
        for tensor in found:
            self._chosen[id(tensor)] = weakref.ref(tensor)

    def _is_chosen(self, tensor: torch.Tensor) -> bool:
        known = self._chosen.get(id(tensor))
        return known is not None and known() is tensor
