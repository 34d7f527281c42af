"""The step of generation, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.gated_delta_rule.eager import Eager
from oplib.kernels.variant import Needs, Sizes
from oplib.params import Params


class CompiledStep(Compiled):
    """The step of generation compiled by torch: what a compiled model runs where no other kernel is installed."""

    of = Eager
    varies: ClassVar[Varies] = {
        "q": (0,),
        "k": (0,),
        "v": (0,),
        "beta": (0,),
        "gate": (0,),
        "state": (0,),
    }
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        """The loop over the tokens of a prompt unrolls."""
        return None if params["phase"] == "generation" else "compiles the step of generation only"
