"""The step of generation, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Varies
from oplib.kernels.step import CompiledStep
from oplib.kernels.wkv.eager import Eager


class CompiledAverage(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
    varies: ClassVar[Varies] = {"k": (0,), "v": (0,), "state": (0,)}
