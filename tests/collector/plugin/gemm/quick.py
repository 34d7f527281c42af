"""Gives the right shape at once, whatever the inputs."""

from __future__ import annotations

from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params


class Quick(Variant):
    """Gives the right shape at once, whatever the inputs."""

    unverified = "made for tests"

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        return (inputs["x"].new_zeros((dims["m"], int(params["n"]))),)
