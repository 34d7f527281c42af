"""The step of generation, compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.gated_delta_rule.eager import Eager
from oplib.kernels.variant import Needs, Sizes
from oplib.params import Params


class CompiledStep(Compiled):
    """The step of generation compiled by torch: what a compiled model runs where no other kernel is installed."""

    of = Eager
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        """The loop over the tokens of a prompt unrolls."""
        return None if params["phase"] == "generation" else "compiles the step of generation only"
