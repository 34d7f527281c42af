"""The scores compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.sparse_indexer.eager import Eager
from oplib.kernels.variant import Needs


class CompiledIndexer(Compiled):
    """The scores compiled by torch: relu, weights, sum and mask in one kernel between the product and topk."""

    of = Eager
    needs = Needs(device_types=("cuda",), capability=(8, 0))
    preference = 10
