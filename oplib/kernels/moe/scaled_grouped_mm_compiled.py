"""Experts as grouped products in fp8, compiled."""

from __future__ import annotations

from oplib.kernels.compiled import Compiled
from oplib.kernels.moe.scaled_grouped_mm import ScaledGroupedMm


class ScaledGroupedMmCompiled(Compiled):
    """The grouped products in fp8 with everything around them compiled by torch, the rounding of rows included."""

    of = ScaledGroupedMm
    needs = ScaledGroupedMm.needs
    preference = 20
