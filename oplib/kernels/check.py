"""Checked: how far a variant is from the truth, next to how far the reference is.

The truth is the reference run in float64 on the same inputs. A variant passes where its relative error, of the whole
and of its worst element, is at most a few times that of the reference in the op's own dtype. Before it runs, the memory
that its outputs will get is filled with NaN, so that an element that is not written shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from oplib.kernels.registry import slot
from oplib.kernels.source import FreshSource
from oplib.kernels.variant import Inputs, Outputs, Sizes, Variant
from oplib.params import Params

_POISONED = 16  # pieces of memory as large as the outputs, that are filled with NaN before a run
FACTOR = 4.0  # times the error of the reference: another order of sums, and rounding of what lies between


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Relative errors against float64: of the norm, and of the worst element over the root mean square."""

    variant: str
    error: float
    worst: float
    allowed_error: float
    allowed_worst: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the outputs are right; a NaN is not."""
        return (
            not self.note and self.error <= self.allowed_error and self.worst <= self.allowed_worst
        )

    def __str__(self) -> str:
        return self.note or (
            f"error {self.error:.2e} (allowed {self.allowed_error:.2e}), "
            f"worst element {self.worst:.2e} (allowed {self.allowed_worst:.2e})"
        )


def check(
    variant: Variant, params: Params, dims: Sizes, *, device: torch.device | str, seed: int
) -> Checked:
    """Run a variant and the reference on fresh random inputs and compare."""
    reference = slot(variant.slot).reference

    def fresh() -> Inputs:
        return variant.inputs(params, dims, FreshSource(device, seed))

    truth = reference.bound(_widened(fresh()), params, dims)()
    plain = reference.bound(fresh(), params, dims)()
    before = variant.bound(fresh(), params, dims)()
    run = variant.bound(fresh(), params, dims)
    # many: an output may come to lie where a temporary of its size lay before
    held = [before, *(tuple(map(torch.empty_like, before)) for _ in range(_POISONED))]
    while held:  # last of all before the run: inputs take memory too
        poisoned(held.pop())
    found = run()
    if note := _shapes_differ(found, truth):
        return Checked(variant=str(variant), error=float("nan"), worst=float("nan"),
                       allowed_error=0.0, allowed_worst=0.0, note=note)  # fmt: skip
    own = _errors(plain, truth)
    theirs = _errors(found, truth)
    eps = max(_eps(t.dtype) for t in found)
    return Checked(
        variant=str(variant),
        error=theirs[0],
        worst=theirs[1],
        allowed_error=FACTOR * own[0] + eps / 2,
        allowed_worst=FACTOR * own[1] + 4 * eps,
    )


def poisoned(outputs: Outputs) -> None:
    """Fill outputs with NaN and let go of them: the allocator hands their memory to the next of their size."""
    for tensor in outputs:
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))


def _widened(value: Any) -> Any:  # Any: inputs are tensors, lists of them, numbers or None
    if isinstance(value, dict):
        return {name: _widened(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_widened(one) for one in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(torch.float64)
    return value


def _shapes_differ(found: Outputs, truth: Outputs) -> str:
    shapes = [[tuple(t.shape) for t in outputs] for outputs in (found, truth)]
    return "" if shapes[0] == shapes[1] else f"outputs are {shapes[0]}, not {shapes[1]}"


def _errors(found: Outputs, truth: Outputs) -> tuple[float, float]:
    """The largest over the outputs of both relative errors; nan where an output has one."""
    norms, worsts = [0.0], [0.0]
    for one, true in zip(found, truth, strict=True):
        if not true.numel():
            continue
        true = true.to(torch.float64)
        away = one.to(torch.float64) - true
        size = float(true.square().mean().sqrt()) or 1.0
        norms.append(float(away.square().mean().sqrt()) / size)
        worsts.append(float(away.abs().max()) / size)
    return _largest(norms), _largest(worsts)


def _largest(values: list[float]) -> float:
    return float("nan") if any(v != v for v in values) else max(values)


def _eps(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps) if dtype.is_floating_point else 0.0
