"""The separate operators, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.latent import EagerLatent
from oplib.kernels.variant import Needs


class CompiledLatent(Compiled):
    """The separate operators compiled by torch: products on cuBLAS, scale and softmax in one kernel."""

    of = EagerLatent
    varies: ClassVar[Varies] = {
        "q": (0, 2),
        "k": (0, 2),
        "v": (0, 2),
        "latent": (0, 1),
        "mask": (0, 1),
    }
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 5
