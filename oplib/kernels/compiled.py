"""A variant that is another one, compiled by torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import torch

from oplib.kernels.hardware import Hardware
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params

Varies: TypeAlias = Mapping[str, tuple[int, ...]]
_RECOMPILED = 32  # times that one function may be compiled: sizes of 1 are special to torch, each in its own way


class Compiled(Variant):
    """A subclass names the variant that is compiled in `of`, and in `varies` the dimensions that the workload changes.

    Parameters are constants of the compiled code, as a model's sizes are; the named dimensions are not, so that one
    compilation serves all workloads. Each set of sizes has a function of its own: torch counts compilations, and
    looks through them, by function.
    """

    of: ClassVar[type[Variant]]
    #: Dimensions that differ between workloads, by input; every tensor of an input that is a list has them.
    varies: ClassVar[Varies]
    backend: ClassVar[str] = "inductor"

    def __init__(self, slot: str, name: str, inputs: Any) -> None:  # Any: passed on as it is
        super().__init__(slot, name, inputs)
        self._plain = self.of(slot, "eager", inputs)
        self._functions: dict[tuple[Any, ...], Callable[[Inputs], Outputs]] = {}  # Any: parameters

    def why_not(
        self, device: Hardware, params: Params | None = None, dims: Sizes | None = None
    ) -> str | None:
        return super().why_not(device, params, dims) or self._plain.why_not(device, params, dims)

    def constants(self, params: Params, dims: Sizes) -> tuple[int, ...]:
        """What of a case is a constant of the compiled code beside the parameters: cases that agree share it."""
        return ()

    def varying(self, params: Params, inputs: Inputs) -> Varies:
        """What is no constant in the code for these inputs: less than `varies` where torch compiles sizes apart."""
        return self.varies

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        ready = self._plain.prepare(inputs, params, dims)
        for name, places in self.varying(params, ready).items():
            for tensor in _tensors(ready.get(name)):
                for place in places:
                    torch._dynamo.maybe_mark_dynamic(tensor, place)
        return ready

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        return self._function(params, inputs)(inputs)

    def _function(self, params: Params, inputs: Inputs) -> Callable[[Inputs], Outputs]:
        key = (*params.items(), *_fixed_sizes(inputs, self.varying(params, inputs)))
        if key not in self._functions:
            fixed, plain = dict(params), self._plain

            def call(inputs: Inputs) -> Outputs:
                return plain.run(inputs, fixed, {})

            call.__code__ = call.__code__.replace(
                co_name=f"call_{self.slot}_{len(self._functions)}"
            )
            torch._dynamo.config.recompile_limit = _RECOMPILED
            torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would run uncompiled
            self._functions[key] = torch.compile(call, backend=self.backend)
        return self._functions[key]


def _fixed_sizes(inputs: Inputs, varies: Varies) -> Iterator[tuple[Any, ...]]:  # Any: names, sizes
    """What the code depends on beyond the parameters: sizes that no workload changes, and plain numbers."""
    for name, value in inputs.items():
        varying = varies.get(name, ())
        sizes = [
            tuple(n for i, n in enumerate(t.shape) if i not in varying) for t in _tensors(value)
        ]
        plain = isinstance(value, int | float | str | None)
        yield (name, *sizes) if sizes else (name, value if plain else type(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:  # Any: an input
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list):
        yield from value
