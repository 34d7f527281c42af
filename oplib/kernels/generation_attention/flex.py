"""torch's flex_attention, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels import flex
from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.variant import Sizes
from oplib.params import Params


class CompiledFlex(Compiled):
    """torch's flex_attention, compiled: soft cap in the kernel, windows as skipped blocks, sinks from its log-sum.

    A batch is a constant of the code: torch splits the keys of one query over the device only then.
    """

    of = flex.Flex
    varies: ClassVar[Varies] = {"k": (2,), "v": (2,)}
    needs = flex.NEEDS
    preference = 4

    def constants(self, params: Params, dims: Sizes) -> tuple[int, ...]:
        return (dims["b"],)
