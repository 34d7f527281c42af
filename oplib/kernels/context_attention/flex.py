"""torch's flex_attention, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels import flex
from oplib.kernels.compiled import Compiled, Varies


class CompiledFlex(Compiled):
    """torch's flex_attention, compiled: soft cap in the kernel, windows as skipped blocks, sinks from its log-sum."""

    of = flex.Flex
    varies: ClassVar[Varies] = {"q": (0, 2), "k": (0, 2), "v": (0, 2)}
    needs = flex.NEEDS
    preference = 4
