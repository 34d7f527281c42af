"""The cluster as one compiled kernel."""

from __future__ import annotations

from typing import ClassVar

from oplib.cluster_form import form
from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.pointwise.eager import Eager
from oplib.kernels.variant import Needs, Sizes
from oplib.params import Params


class CompiledCluster(Compiled):
    """The cluster compiled by torch into one Triton kernel: what a compiled model runs."""

    of = Eager
    varies: ClassVar[Varies] = {"tensors": (0,), "table": (0,)}
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

    def constants(self, params: Params, dims: Sizes) -> tuple[int, ...]:
        found = form(params, dims)
        alone = found.rows == found.repeats
        return found.read, found.written, found.width, found.repeats, alone
