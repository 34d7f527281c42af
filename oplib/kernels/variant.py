"""Variant: one implementation of a slot, what it needs, and how it is made ready and run."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch

from oplib.kernels.hardware import Hardware
from oplib.kernels.source import PoolSource, Source
from oplib.params import Params

Inputs: TypeAlias = dict[str, Any]  # Any: tensors, None where an input is absent, plain numbers
Sizes: TypeAlias = Mapping[str, int]
Outputs: TypeAlias = tuple[torch.Tensor, ...]

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp8": torch.float8_e4m3fn,
    "int64": torch.int64,
    "int32": torch.int32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a variant runs on: device types, CUDA compute capabilities (from, and below which), values of the parameter
    `dtype`, and packages that have to be importable."""

    device_types: tuple[str, ...] = ("cpu", "cuda")
    capability: tuple[int, int] = (0, 0)
    capability_below: tuple[int, int] = (99, 0)
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    packages: tuple[str, ...] = ()

    def unmet(self, device: Hardware, dtype: object | None) -> str | None:
        """The first need that is not met, in words; None where all are."""
        if device.type not in self.device_types:
            return f"needs {' or '.join(self.device_types)}, this is {device}"
        if device.capability is not None:
            if device.capability < self.capability:
                return (
                    f"needs compute capability {_dotted(self.capability)} or more, this is {device}"
                )
            if device.capability >= self.capability_below:
                return f"needs compute capability below {_dotted(self.capability_below)}, this is {device}"
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            return f"needs the package {', '.join(missing)}, which is not installed"
        if dtype is not None and dtype not in self.dtypes:
            return f"takes {', '.join(self.dtypes)}, not {dtype}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A case ready to run: one function per set of inputs, each of which gives the outputs. `cold_bytes` are those of
    the weights, caches and states of a set."""

    runs: tuple[Callable[[], Outputs], ...]
    cold_bytes: int = 0
    keep: tuple[Inputs, ...] = field(default=(), repr=False)


class Variant(ABC):
    """One implementation of a slot. The docstring says what runs, in one line first; the registry gives the names.

    `preference` decides between variants that can all run: the highest is taken where none is asked for. `rank` is it
    for a case, less where an implementation does more than the case needs. `unverified` says why nobody has seen this
    variant run; such a one is never taken unasked.
    """

    needs: ClassVar[Needs] = Needs()
    preference: ClassVar[int] = 0
    unverified: ClassVar[str] = ""
    #: Whether a CUDA graph can hold `run`; one that asks the device for a value cannot be captured.
    capturable: ClassVar[bool] = True
    #: Whether a model can run it: one whose `prepare` works on the values of its inputs only runs alone.
    bindable: ClassVar[bool] = True
    #: Seconds that a case may take beyond the others: the library builds what it runs at first use.
    build_seconds: ClassVar[float] = 0.0

    def __init__(
        self, slot: str, name: str, inputs: Callable[[Params, Sizes, Source], Inputs]
    ) -> None:
        self.slot, self.name, self._inputs = slot, name, inputs

    def __repr__(self) -> str:
        return f"{self.slot}={self.name}"

    @property
    def doc(self) -> str:
        """The first line of the docstring."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    def why_not(
        self, device: Hardware, params: Params | None = None, dims: Sizes | None = None
    ) -> str | None:
        """Why this variant cannot run there, or not with these parameters and dims; None where it can."""
        dtype = None if params is None else params.get("dtype")
        if unmet := self.needs.unmet(device, dtype):
            return unmet
        if params is None:
            return None
        cache = params.get("kv_dtype", dtype)
        if cache != dtype:
            return f"reads caches in the dtype of the queries, {dtype}, not {cache}"
        return self.refuses(params, dims or {})

    def refuses(self, params: Params, dims: Sizes) -> str | None:
        """Why the implementation does not do this op; `dims` may be empty where only parameters are known."""
        return None

    def rank(self, params: Params, dims: Sizes) -> int:
        """The preference for this case; `dims` may be empty where only parameters are known."""
        return self.preference

    def prepare(self, inputs: Inputs, params: Params, dims: Sizes) -> Inputs:
        """The inputs as this variant wants them: layouts, masks. Not timed."""
        return inputs

    @abstractmethod
    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        """What is timed: the outputs."""

    def inputs(self, params: Params, dims: Sizes, source: Source) -> Inputs:
        """A set of inputs of the slot, as all of its variants take them."""
        return self._inputs(params, dims, source)

    def bound(self, inputs: Inputs, params: Params, dims: Sizes) -> Callable[[], Outputs]:
        """A function without arguments that runs on these inputs."""
        ready = self.prepare(inputs, params, dims)
        return lambda: self.run(ready, params, dims)

    def make(
        self, params: Params, dims: Sizes, source: PoolSource, sets: int = 1, *, given: Inputs | None = None
    ) -> Call:  # fmt: skip
        """The case, ready to run over `sets` sets of inputs; those that are `given` are the same in all of them."""
        runs, keep = [], []
        source.begin_case()
        cold = 0
        for _ in range(sets):
            source.begin_set()
            keep.append({**self.inputs(params, dims, source), **(given or {})})
            cold = source.cold_bytes
            runs.append(self.bound(keep[-1], params, dims))
        return Call(runs=tuple(runs), cold_bytes=cold, keep=tuple(keep))


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
