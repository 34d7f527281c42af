"""The cluster as one compiled kernel."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.pointwise.eager import Eager
from oplib.kernels.variant import Needs


class CompiledCluster(Compiled):
    """The cluster compiled by torch into one Triton kernel: what a compiled model runs."""

    of = Eager
    needs = Needs(
        device_types=("cuda",),
        capability=(8, 0),
        dtypes=(
            "float32",
            "bfloat16",
            "float16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint8",
            "bool",
        ),
    )
    preference = 10
