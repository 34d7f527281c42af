"""torch's flex_attention, compiled."""

from __future__ import annotations

from oplib.kernels import flex
from oplib.kernels.compiled import Compiled


class CompiledFlex(Compiled):
    """torch's flex_attention, compiled: soft cap in the kernel, windows as skipped blocks, sinks from its log-sum.

    The batch is known to the code: torch splits the keys of one query over the device only then.
    """

    of = flex.Flex
    needs = flex.NEEDS
    preference = 4
