"""The step of generation, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Varies
from oplib.kernels.mamba1.eager import Eager
from oplib.kernels.step import CompiledStep


class CompiledScan(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
    varies: ClassVar[Varies] = {"x": (0,), "dt": (0,), "B": (0,), "C": (0,), "state": (0,)}
