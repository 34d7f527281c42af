"""torch's flex_attention, compiled."""

from __future__ import annotations

from oplib.kernels import flex
from oplib.kernels.compiled import Compiled
from oplib.kernels.variant import Sizes
from oplib.params import Params, integer

_WIDEST = 256  # of a head: at 512 torch 2.11's tiles need 256 KiB of shared memory, an H200 has 227


class CompiledFlex(Compiled):
    """torch's flex_attention, compiled: soft cap in the kernel, windows as skipped blocks, sinks from its log-sum."""

    of = flex.Flex
    needs = flex.NEEDS
    preference = 4

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        if integer(params, "head_dim") > _WIDEST:
            return f"its tiles do not fit at heads wider than {_WIDEST}"
        return None
