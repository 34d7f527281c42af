"""The time no op can beat: the longer of its FLOPs at peak and its bytes at bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from oplib.errors import InvalidInputError
from oplib.op import Op
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


def speed_of_light(op: Op, system: System, *, b: int, s: int, p: int) -> SpeedOfLight:
    """The bound of one occurrence of `op` for the workload b, s, p; `op.count` multiplies."""
    compute_dtype = op.kind.compute_dtype(op.params)
    ran_as = find_rate(compute_dtype, system)
    flops = float(op.flops_at(b=b, s=s, p=p))
    num_bytes = float(op.bytes_at(b=b, s=s, p=p))
    compute_ms = flops / system.peak[ran_as].base * 1e3
    memory_ms = num_bytes / system.memory_bandwidth.base * 1e3
    return SpeedOfLight(
        ms=max(compute_ms, memory_ms),
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        bound="compute" if compute_ms > memory_ms else "memory",
        compute_dtype=compute_dtype,
        ran_as=ran_as,
    )
