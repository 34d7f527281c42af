"""The step of generation, compiled."""

from __future__ import annotations

from oplib.kernels.rg_lru.eager import Eager
from oplib.kernels.step import CompiledStep


class CompiledLru(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
