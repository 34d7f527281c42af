"""The step of generation, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Varies
from oplib.kernels.linear_attention.eager import Eager
from oplib.kernels.step import CompiledStep


class CompiledLinear(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
    varies: ClassVar[Varies] = {"q": (0,), "k": (0,), "v": (0,), "state": (0,)}
