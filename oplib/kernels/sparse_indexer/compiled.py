"""The scores compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.sparse_indexer.eager import Eager
from oplib.kernels.variant import Needs


class CompiledIndexer(Compiled):
    """The scores compiled by torch: relu, weights, sum and mask in one kernel between the product and topk."""

    of = Eager
    varies: ClassVar[Varies] = {"q": (0, 1), "k": (0, 1), "w": (0, 1), "hidden": (0, 1)}
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10
