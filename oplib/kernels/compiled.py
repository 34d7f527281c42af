"""A variant that is another one, compiled by torch.compile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch

from oplib.kernels.hardware import Hardware
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params

_KEPT = 64  # compiled functions of a variant: more than the cases that are measured side by side


class Compiled(Variant):
    """A subclass names the variant that is compiled in `of`.

    Parameters and sizes are constants of the code, as those of a model that is compiled for a batch. Code for any size
    is another: inductor chooses its blocks by the size that it happens to see first, and one kernel took up to 2.8
    times as long in one run as in the next.
    """

    of: ClassVar[type[Variant]]
    backend: ClassVar[str] = "inductor"

    def __init__(self, slot: str, name: str, inputs: Any) -> None:  # Any: passed on as it is
        super().__init__(slot, name, inputs)
        self._plain = self.of(slot, "eager", inputs)
        self._numbers = itertools.count()
        self._functions: dict[tuple[Any, ...], Callable[[Inputs], Outputs]] = {}  # Any: parameters

    def why_not(
        self, device: Hardware, params: Params | None = None, dims: Sizes | None = None
    ) -> str | None:
        return super().why_not(device, params, dims) or self._plain.why_not(device, params, dims)

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        return self._plain.prepare(inputs, params, dims)

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        return self._function(params, inputs)(inputs)

    def _function(self, params: Params, inputs: Inputs) -> Callable[[Inputs], Outputs]:
        """torch counts compilations, and looks through them, by function: each case has its own."""
        key = (*params.items(), *_sizes(inputs))
        if key not in self._functions:
            while len(self._functions) >= _KEPT:
                del self._functions[next(iter(self._functions))]
            fixed, plain = dict(params), self._plain

            def call(inputs: Inputs) -> Outputs:
                return plain.run(inputs, fixed, {})

            call.__code__ = call.__code__.replace(co_name=f"call_{self.slot}_{next(self._numbers)}")
            torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would run uncompiled
            self._functions[key] = torch.compile(call, backend=self.backend, dynamic=False)
        return self._functions[key]


def _sizes(inputs: Inputs) -> Iterator[tuple[Any, ...]]:  # Any: names, sizes
    """Sizes of the tensors of each input, and plain numbers."""
    for name, value in inputs.items():
        sizes = [tuple(t.shape) for t in _tensors(value)]
        plain = isinstance(value, int | float | str | None)
        yield (name, *sizes) if sizes else (name, value if plain else type(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:  # Any: an input
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list):
        yield from value
