"""The step of generation, compiled."""

from __future__ import annotations

from oplib.kernels.mamba1.eager import Eager
from oplib.kernels.step import CompiledStep


class CompiledScan(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
