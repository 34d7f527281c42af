"""The cluster as separate operators."""

from __future__ import annotations

import torch
from torch.nn import functional

from oplib.cluster_form import REDUCTIONS
from oplib.kernels.variant import Inputs, Needs, Outputs, Sizes, Variant
from oplib.params import Params, text

_FUNCTIONS = {
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "exp": lambda x: torch.exp(-x.abs()),
    "softplus": functional.softplus,
    "square": torch.square,
    "neg": torch.neg,
}
_CHANGES = REDUCTIONS | frozenset(_FUNCTIONS)  # functions that leave no values as they were


class Eager(Variant):
    """A stand-in for the cluster: its tensors summed, its functions one after the other, a norm where it reduces rows.

    Each output takes another factor, so that none is left out by a compiler.
    """

    needs = Needs(
        dtypes=(
            "float32",
            "bfloat16",
            "float16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint8",
            "bool",
        )
    )

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        tensors = inputs["tensors"]
        first, others = tensors[0], tensors[1:]
        if inputs["table"] is not None:
            others = [*others, inputs["table"]]
        if not first.is_floating_point():
            joined = first
            for other in others:
                joined = joined | other
            return tuple(_flipped(joined, i) for i in range(inputs["written"]))
        wide = torch.float64 if first.dtype == torch.float64 else torch.float32
        value = first.to(wide)
        for other in others:
            value = value + other.to(wide)
        names = text(params, "functions").split("+")
        summed = value
        for name in names:
            value = _FUNCTIONS.get(name, lambda x: x)(value)
        if not _CHANGES & set(names):
            value = value * 1.25  # a copy that a compiler cannot leave out
        if REDUCTIONS & set(names):
            value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + 1e-6)
            value = value * inputs["scale"].to(wide)
        results = [value]
        if others:  # what is no sum is an input and not written again
            results.append(summed)
        while len(results) < inputs["written"]:
            results.append(value * (1.0 + 0.25 * len(results)))
        return tuple(result.to(first.dtype) for result in results[: inputs["written"]])


def _flipped(values: torch.Tensor, i: int) -> torch.Tensor:
    """The integers or truths, another function of them for each i, in their own dtype."""
    return ~values if values.dtype == torch.bool else values ^ (i + 1)
