"""The step of generation, compiled."""

from __future__ import annotations

from oplib.kernels.step import CompiledStep
from oplib.kernels.wkv.eager import Eager


class CompiledAverage(CompiledStep):
    """The step of generation compiled by torch."""

    of = Eager
