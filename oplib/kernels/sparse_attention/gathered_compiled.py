"""The selected keys gathered, compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.sparse_attention.gathered import Gathered
from oplib.kernels.variant import Needs


class GatheredCompiled(Compiled):
    """The gathered products with everything around them compiled by torch."""

    of = Gathered
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10
