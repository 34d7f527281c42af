"""The time no op can beat: the longest of FLOPs at peak, bytes at bandwidth and bytes sent at the rate of the links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Literal, TypeAlias

from oplib.arithmetic import Amount, maximum
from oplib.errors import InvalidInputError
from oplib.kind import Dims, Part
from oplib.op import Op, OpKind
from oplib.params import Params, integer
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

Side: TypeAlias = Literal["compute", "memory", "link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedOfLight:
    """Milliseconds of one occurrence; `bound` is the longest side, `ran_as` the rate in force."""

    ms: float
    compute_ms: float
    memory_ms: float
    link_ms: float
    bound: Side
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


def link_ms(kind: OpKind, params: Params, dims: Dims, system: System) -> Amount:
    """Milliseconds of what a GPU sends to others at the one-way rate of its links; 0 for kinds that send nothing.

    A group over several servers sends over the network too, at its rate, at the same time: the slower counts.
    """
    if spans_servers(kind, params, system):
        assert system.network_bw_one_way is not None
        inside, outside = kind.spread_bytes(
            params, dims, joins=system.joins, switch_reduces=system.switch_reduces
        )
        links = inside / system.interconnect_bw_one_way.base
        return maximum(links, outside / system.network_bw_one_way.base) * 1e3
    sent = kind.link_bytes(params, dims, switch_reduces=system.switch_reduces)
    return sent / system.interconnect_bw_one_way.base * 1e3


def spans_servers(kind: OpKind, params: Params, system: System) -> bool:
    """Whether the GPUs of an op are more than the interconnect joins, and the network that joins them is known."""
    if kind.role != "communication" or system.network_bw_one_way is None:
        return False
    return integer(params, "num_gpus") > system.joins > 0


def bounds_ms(
    kind: OpKind, params: Params, dims: Dims, system: System
) -> tuple[Amount, Amount, Amount]:
    """The bound, and its sides: FLOPs at peak, and the slower of memory and links.

    Of a module, the sums of its parts' by the way with the least bound, which is more than its longer side where one
    part is bound by FLOPs and another by bytes.
    """
    if ways := kind.ways(params, dims):
        return reduce(_lesser, (_way_ms(way, system) for way in ways))
    compute, memory = sides_ms(kind, params, dims, system)
    if kind.role == "communication":
        memory = maximum(memory, link_ms(kind, params, dims, system))
    return maximum(compute, memory), compute, memory


def _way_ms(way: tuple[Part, ...], system: System) -> tuple[Amount, Amount, Amount]:
    parts = [(one.times, bounds_ms(one.kind, one.params, one.dims, system)) for one in way]
    bound, compute, memory = (sum(times * ms[i] for times, ms in parts) for i in range(3))
    return bound, compute, memory


def _lesser(
    one: tuple[Amount, Amount, Amount], other: tuple[Amount, Amount, Amount]
) -> tuple[Amount, Amount, Amount]:
    """The one of the lesser bound, place by place."""
    if isinstance(one[0], int | float) and isinstance(other[0], int | float):
        return min(one, other, key=lambda sides: sides[0])
    import numpy

    first = numpy.less_equal(one[0], other[0])
    bound, compute, memory = (numpy.where(first, *pair) for pair in zip(one, other, strict=True))
    return bound, compute, memory


def bound_ms(kind: OpKind, params: Params, dims: Dims, system: System) -> Amount:
    """The first of `bounds_ms`."""
    return bounds_ms(kind, params, dims, system)[0]


def speed_of_light(op: Op, system: System, *, b: int, s: int, p: int) -> SpeedOfLight:
    """The bound of one occurrence of `op` for the workload b, s, p; `op.count` multiplies."""
    compute_dtype = op.kind.compute_dtype(op.params)
    dims = op.dims_at(b=b, s=s, p=p)
    whole, compute, memory = bounds_ms(op.kind, op.params, dims, system)
    if op.kind.role == "communication":
        memory = sides_ms(op.kind, op.params, dims, system)[1]
    sides: dict[Side, float] = {
        "memory": float(memory),
        "link": float(link_ms(op.kind, op.params, dims, system)),
        "compute": float(compute),
    }
    bound = max(sides, key=lambda side: sides[side])
    return SpeedOfLight(
        ms=float(whole),
        compute_ms=sides["compute"],
        memory_ms=sides["memory"],
        link_ms=sides["link"],
        bound=bound,
        compute_dtype=compute_dtype,
        ran_as=find_rate(compute_dtype, system),
    )
