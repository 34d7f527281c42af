"""Experts as grouped products, compiled."""

from __future__ import annotations

from typing import ClassVar

from oplib.kernels.compiled import Compiled, Varies
from oplib.kernels.moe.grouped_mm import GroupedMm
from oplib.kernels.variant import Inputs, Needs, Sizes
from oplib.params import Params, integer

#: Pairs that inductor sorts in a kernel of its own where it knows how many there are; else torch's sort runs, with
#: copies around it (`torch._inductor.ir.Sort.create`).
_KNOWN_PAIRS = 512


class GroupedMmCompiled(Compiled):
    """transformers' grouped products and the selection before them, compiled by torch: what a compiled model runs.

    A model's code is compiled for the tokens of a step. That shows where they are few, and there each number of tokens
    is compiled apart.
    """

    of = GroupedMm
    varies: ClassVar[Varies] = {"x": (0,), "logits": (0,)}
    needs = Needs(
        device_types=("cuda",),
        capability=(8, 0),
        dtypes=("bfloat16",),
        packages=("transformers",),
    )
    experts = "grouped_mm"  # in transformers' registry
    preference = 20

    def constants(self, params: Params, dims: Sizes) -> tuple[int, ...]:
        m = dims["m"]
        return (m,) if m * integer(params, "top_k") <= _KNOWN_PAIRS else ()

    def varying(self, params: Params, inputs: Inputs) -> Varies:
        known = self.constants(params, {"m": inputs["x"].shape[0]})
        return {} if known else self.varies
