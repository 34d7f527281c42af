"""The separate operators, compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.latent import EagerLatent
from oplib.kernels.variant import Needs


class CompiledLatent(Compiled):
    """The separate operators compiled by torch: products on cuBLAS, scale and softmax in one kernel."""

    of = EagerLatent
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 5
