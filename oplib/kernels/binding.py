"""Binding: how a slot enters a real model of transformers, so that it runs the kernel that is measured alone.

A package of a slot that a model calls defines `bind(variant)`, which gives the functions that stand in the model's
place. A variant enters as one operator that torch.compile does not look into, so that the kernels inside are those of
the op alone; the compiled form of a variant is then its own compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from oplib.errors import InvalidInputError
from oplib.kernels.variant import Inputs, Sizes, Variant
from oplib.params import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a bound slot puts into a model: the attention that transformers' registry hands out, the name of the experts
    in that registry, and kernel functions by the name that modeling files call them by. `noted` is there where the
    time depends on values: from the arguments of a call, the parameters and dims that it tells, and those inputs."""

    attention: Callable[..., Any] | None = None  # Any: the models' own arguments
    experts: str = ""
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    noted: Callable[..., tuple[Params, Sizes, Inputs]] | None = None


class Recorded:
    """Inputs that bound slots got in a model, the first of each size, for the same slots alone.

    Notes are taken while it is `open`: later calls may be captured, and would hold the kernels that take notes.
    """

    def __init__(self) -> None:
        self.open = True
        self._notes: list[tuple[str, Params, Sizes, Inputs]] = []

    def note(self, slot: str, params: Params, dims: Sizes, inputs: Inputs) -> None:
        """Keep the inputs of a call, unless there are some of these sizes."""
        if all(known[:3] != (slot, params, dims) for known in self._notes):
            self._notes.append((slot, params, dims, inputs))

    def of(self, slot: str, params: Params, dims: Sizes) -> Inputs | None:
        """What the slot got at these parameters and dims; None where it was not called so or nothing was noted."""
        for name, told, sizes, inputs in self._notes:
            if name == slot and sizes == dims and told.items() <= params.items():
                return inputs
        return None

    def clear(self) -> None:
        """Let go of all, and take notes again."""
        self.open = True
        self._notes.clear()


#: What `Variant.prepare` adds to the inputs of a bound operator and does not depend on their values: masks.
_EXTRAS: dict[tuple[Any, ...], Inputs] = {}  # Any: slot, variant, parameters, dims, device


def ready(variant: Variant, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
    """The inputs as the variant wants them; what it makes of sizes alone is made once, before any capture."""
    device = next(t.device for t in inputs.values() if isinstance(t, torch.Tensor))
    key = (variant.slot, variant.name, *params.items(), *dims.items(), device)
    if key in _EXTRAS:
        return {**inputs, **_EXTRAS[key]}
    prepared = variant.prepare(inputs, params, dims)
    if all(prepared.get(name) is value for name, value in inputs.items()):
        _EXTRAS[key] = {name: prepared[name] for name in prepared.keys() - inputs.keys()}
    return prepared


def forget() -> None:
    """Let go of masks."""
    _EXTRAS.clear()


REFUSED = "A bound kernel got"  # how the error begins that says so


def refuse(what: str, hint: str = "Measure this part with transformers' own function.") -> None:
    """The model calls with something that no slot has an input for."""
    raise InvalidInputError(f"{REFUSED} {what}.", hint)
