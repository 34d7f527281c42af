"""The step of generation, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Varies
from oplib.kernels.rg_lru.eager import Eager
from oplib.kernels.step import CompiledStep


class CompiledLru(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
    varies: ClassVar[Varies] = {"x": (0,), "decay": (0,), "state": (0,)}
