"""The selected keys gathered, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.sparse_attention.gathered import Gathered
from oplib.kernels.variant import Needs


class GatheredCompiled(Compiled):
    """The gathered products with everything around them compiled by torch."""

    of = Gathered
    varies: ClassVar[Varies] = {"q": (0, 2), "latent": (0, 1), "chosen": (0, 1)}
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10
