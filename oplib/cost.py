"""What one or several ops cost before any hardware is chosen: work and bytes, which add and scale like numbers."""

from __future__ import annotations

from dataclasses import dataclass

from oplib.arithmetic import Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """FLOPs, bytes moved and weight bytes held; each a number or an array over workloads."""

    flops: Amount = 0
    bytes: Amount = 0
    weight_bytes: Amount = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            flops=self.flops + other.flops,
            bytes=self.bytes + other.bytes,
            weight_bytes=self.weight_bytes + other.weight_bytes,
        )

    def __mul__(self, factor: int) -> Cost:
        return Cost(
            flops=self.flops * factor,
            bytes=self.bytes * factor,
            weight_bytes=self.weight_bytes * factor,
        )

    __rmul__ = __mul__
