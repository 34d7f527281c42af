"""The step of generation, compiled."""

from __future__ import annotations

from oplib.kernels.linear_attention.eager import Eager
from oplib.kernels.step import CompiledStep


class CompiledLinear(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
