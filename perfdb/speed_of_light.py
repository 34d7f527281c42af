"""The time no op can beat: the longer of its FLOPs at peak and its bytes at bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from oplib.arithmetic import Amount, maximum
from oplib.errors import InvalidInputError
from oplib.kind import Dims
from oplib.op import Op, OpKind
from oplib.params import Params
from perfdb.systems import System

# The next wider rate that computes the same values; followed until the GPU has one.
WIDER: Mapping[str, str] = MappingProxyType(
    {
        "nvfp4": "fp8",
        "mxfp4": "fp8",
        "fp8": "bfloat16",
        "int8": "bfloat16",
        "bfloat16": "float32",
        "float16": "float32",
        "tf32": "float32",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedOfLight:
    """Milliseconds of one occurrence; `bound` is the longer side, `ran_as` the rate in force."""

    ms: float
    compute_ms: float
    memory_ms: float
    bound: str
    compute_dtype: str
    ran_as: str


def find_rate(compute_dtype: str, system: System) -> str:
    """The dtype at whose peak `compute_dtype` runs: its own, or the nearest wider that is there."""
    dtype: str | None = compute_dtype
    while dtype is not None and dtype not in system.peak:
        dtype = WIDER.get(dtype)
    if dtype is None:
        raise InvalidInputError(
            f"{system.id} has no peak rate for {compute_dtype!r}, nor for a wider dtype.",
            f"Rates: {', '.join(system.peak)}.",
        )
    return dtype


def sides_ms(kind: OpKind, params: Params, dims: Dims, system: System) -> tuple[Amount, Amount]:
    """Milliseconds of the FLOPs at peak and of the bytes at bandwidth; `params` complete, dims numbers or arrays."""
    rate = find_rate(kind.compute_dtype(params), system)
    compute = kind.flops(params, dims) / system.peak[rate].base * 1e3
    return compute, kind.bytes(params, dims) / system.memory_bandwidth.base * 1e3


def bound_ms(kind: OpKind, params: Params, dims: Dims, system: System) -> Amount:
    """The longer of `sides_ms`."""
    return maximum(*sides_ms(kind, params, dims, system))


def speed_of_light(op: Op, system: System, *, b: int, s: int, p: int) -> SpeedOfLight:
    """The bound of one occurrence of `op` for the workload b, s, p; `op.count` multiplies."""
    compute_dtype = op.kind.compute_dtype(op.params)
    compute_ms, memory_ms = sides_ms(op.kind, op.params, op.dims_at(b=b, s=s, p=p), system)
    return SpeedOfLight(
        ms=float(max(compute_ms, memory_ms)),
        compute_ms=float(compute_ms),
        memory_ms=float(memory_ms),
        bound="compute" if compute_ms > memory_ms else "memory",
        compute_dtype=compute_dtype,
        ran_as=find_rate(compute_dtype, system),
    )
