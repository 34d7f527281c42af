"""A variant that is another one, compiled by torch.compile."""

from __future__ import annotations

from typing import Any

import torch

from oplib.kernels.hardware import Hardware
from oplib.kernels.source import Source
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Compiled(Variant):
    """A subclass names the variant that is compiled in `of`. Sizes are dynamic: one compilation serves all workloads.

    Parameters are constants of the compiled code, dims are not: a function is compiled for each set of parameters.
    """

    of: type[Variant]

    def __init__(self, slot: str, name: str, inputs: Any) -> None:  # Any: passed on as it is
        super().__init__(slot, name, inputs)
        self._eager = self.of(slot, "eager", inputs)
        self._functions: dict[tuple[Any, ...], Any] = {}  # Any: parameter values; torch's wrapper

    def why_not(
        self, device: Hardware, params: Params | None = None, dims: Sizes | None = None
    ) -> str | None:
        return super().why_not(device, params, dims) or self._eager.why_not(device, params, dims)

    def inputs(self, params: Params, dims: Sizes, source: Source) -> Inputs:
        return self._eager.inputs(params, dims, source)

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        return self._eager.prepare(inputs, params, dims)

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        found: Outputs = self._function(params, dims)(inputs)
        return found

    def _function(self, params: Params, dims: Sizes) -> Any:  # Any: torch's wrapper
        key = (*params.items(), tuple(sorted(self.constants(dims).items())))
        if key not in self._functions:
            fixed, sizes, eager = dict(params), self.constants(dims), self._eager
            self._functions[key] = torch.compile(
                lambda inputs: eager.run(inputs, fixed, sizes), dynamic=True
            )
        return self._functions[key]

    def constants(self, dims: Sizes) -> Sizes:
        """The dims that the code depends on beyond the shapes of its inputs: none."""
        return {}
