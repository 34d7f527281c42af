"""PerformanceResult: what an op or a sum of ops takes, where the number comes from and how far it may be off.

Sums keep the worst origin, add energy, and combine the errors of their parts as independent ones; a repetition has the
same error each time, so scaling keeps the relative uncertainty.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from oplib.errors import InvalidInputError
from perfdb.arrays import Floats

_NUMBER = (int, float, numpy.integer, numpy.floating)

#: Where a number comes from, best first.
ORIGINS = ("measured", "interpolated", "extrapolated", "empirical", "sol")

Ranks: TypeAlias = NDArray[numpy.int8]


def origin_rank(origin: str) -> int:
    """The place of an origin in ORIGINS; a higher one is worse."""
    if origin not in ORIGINS:
        raise InvalidInputError(f"Unknown origin {origin!r}.", f"Known: {', '.join(ORIGINS)}.")
    return ORIGINS.index(origin)


class PerformanceResult(float):
    """Latency in ms, as a float, with energy in W*ms (None where unknown), origin and relative uncertainty (one sigma).

    Adding a result or a number, multiplying and dividing by a number give results, numpy's numbers included; all else
    a float can do gives plain floats, and an array of numbers gives a plain array.
    """

    __slots__ = ("energy", "origin", "uncertainty")
    __array_priority__ = 1000  # numpy leaves `number + result` to this class
    energy: float | None
    origin: str
    uncertainty: float

    def __new__(
        cls,
        latency: float,
        *,
        energy: float | None = None,
        origin: str = "measured",
        uncertainty: float = 0.0,
    ) -> PerformanceResult:
        origin_rank(origin)
        result = super().__new__(cls, latency)
        result.energy, result.origin, result.uncertainty = energy, origin, uncertainty
        return result

    @property
    def latency(self) -> float:
        """ms, as a plain float."""
        return float(self)

    @property
    def power(self) -> float | None:
        """Mean power in W; None where the energy is unknown or nothing runs."""
        return None if self.energy is None or not self else self.energy / float(self)

    def __add__(
        self, other: Any
    ) -> Any:  # Any: a number or a result; arrays of results add themselves
        if not isinstance(other, PerformanceResult):
            if isinstance(other, numpy.ndarray):
                return float(self) + other
            if not isinstance(other, _NUMBER):
                return NotImplemented
            other = PerformanceResult(float(other), energy=0.0, origin=ORIGINS[0])
        total = float(self) + float(other)
        spread = numpy.hypot(self.uncertainty * float(self), other.uncertainty * float(other))
        unknown = self.energy is None or other.energy is None
        return PerformanceResult(
            total,
            energy=None if unknown else self.energy + other.energy,
            origin=max(self.origin, other.origin, key=origin_rank),
            uncertainty=float(spread / abs(total)) if total else 0.0,
        )

    __radd__ = __add__

    def __mul__(self, factor: Any) -> Any:  # Any: as above
        if isinstance(factor, numpy.ndarray):
            return float(self) * factor
        if isinstance(factor, PerformanceResult) or not isinstance(factor, _NUMBER):
            return float.__mul__(self, factor)
        times = float(factor)
        return PerformanceResult(
            float(self) * times,
            energy=None if self.energy is None else self.energy * times,
            origin=self.origin,
            uncertainty=self.uncertainty,
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Any:  # Any: as above
        if isinstance(divisor, numpy.ndarray):
            return float(self) / divisor
        if isinstance(divisor, PerformanceResult) or not isinstance(divisor, _NUMBER):
            return float.__truediv__(self, divisor)
        return self * (1 / float(divisor))

    def __repr__(self) -> str:
        energy = "" if self.energy is None else f", energy={self.energy:.6g}"
        return f"PerformanceResult({float(self):.6g} ms ± {self.uncertainty:.1%}, {self.origin}{energy})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (float(self), self.energy, self.origin, self.uncertainty)


def _restore(
    latency: float, energy: float | None, origin: str, uncertainty: float
) -> PerformanceResult:
    return PerformanceResult(latency, energy=energy, origin=origin, uncertainty=uncertainty)


class PerformanceArray:
    """Results over workloads: arrays of one shape for latency in ms, energy in W*ms (nan where unknown), `ranks`
    (places in ORIGINS) and relative uncertainty. Indexing gives a PerformanceResult, or a smaller array.
    """

    __slots__ = ("energy", "latency", "ranks", "uncertainty")
    __array_priority__ = 1000  # numpy leaves `array + results` to this class

    def __init__(
        self, latency: Floats, *, energy: Floats | None, ranks: Ranks, uncertainty: Floats
    ) -> None:
        self.latency = latency
        self.energy = numpy.full(latency.shape, numpy.nan) if energy is None else energy
        self.ranks, self.uncertainty = ranks, uncertainty
        for name in ("energy", "ranks", "uncertainty"):  # a sum with an array of more dimensions
            held = getattr(self, name)  # its own fields
            if held.shape != latency.shape:
                setattr(self, name, numpy.broadcast_to(held, latency.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of every array held."""
        return self.latency.shape

    @property
    def origin(self) -> NDArray[numpy.str_]:
        """The origin of each, as text."""
        return numpy.array(ORIGINS)[self.ranks]

    @property
    def power(self) -> Floats:
        """Mean power in W; nan where the energy is unknown or nothing runs."""
        with numpy.errstate(divide="ignore", invalid="ignore"):
            return numpy.where(self.latency > 0, self.energy / self.latency, numpy.nan)

    def __len__(self) -> int:
        return len(self.latency)

    def __lt__(self, other: Any) -> Any:  # Any: numbers; arrays of truths, as below
        return self.latency < numpy.asarray(other)

    def __le__(self, other: Any) -> Any:  # Any: as above
        return self.latency <= numpy.asarray(other)

    def __gt__(self, other: Any) -> Any:  # Any: as above
        return self.latency > numpy.asarray(other)

    def __ge__(self, other: Any) -> Any:  # Any: as above
        return self.latency >= numpy.asarray(other)

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> Floats:  # Any: numpy's own protocol
        return numpy.array(self.latency, dtype=dtype, copy=copy)

    def __getitem__(self, index: Any) -> Any:  # Any: what numpy takes as an index
        latency = self.latency[index]
        energy, ranks, uncertainty = self.energy[index], self.ranks[index], self.uncertainty[index]
        if isinstance(latency, numpy.ndarray):
            return PerformanceArray(latency, energy=energy, ranks=ranks, uncertainty=uncertainty)
        return PerformanceResult(
            float(latency),
            energy=None if numpy.isnan(energy) else float(energy),
            origin=ORIGINS[ranks],
            uncertainty=float(uncertainty),
        )

    def __add__(self, other: Any) -> Any:  # Any: a number, a result, an array of either
        if isinstance(other, PerformanceArray):
            latency, energy = other.latency, other.energy
            ranks, uncertainty = other.ranks, other.uncertainty
        elif isinstance(other, PerformanceResult):
            latency, ranks = float(other), origin_rank(other.origin)  # type: ignore[assignment]  # broadcast
            energy = numpy.nan if other.energy is None else other.energy  # type: ignore[assignment]
            uncertainty = other.uncertainty  # type: ignore[assignment]
        else:
            latency, energy, ranks, uncertainty = other, 0.0, 0, 0.0  # type: ignore[assignment]
        total = self.latency + latency
        spread = numpy.hypot(self.uncertainty * self.latency, uncertainty * latency)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            relative = numpy.where(total != 0, spread / numpy.abs(total), 0.0)
        return PerformanceArray(
            total,
            energy=self.energy + energy,
            ranks=numpy.maximum(self.ranks, ranks).astype(numpy.int8),
            uncertainty=relative,
        )

    __radd__ = __add__

    def __mul__(self, factor: Any) -> Any:  # Any: a number or an array of numbers
        return PerformanceArray(
            self.latency * factor,
            energy=self.energy * factor,
            ranks=self.ranks,
            uncertainty=self.uncertainty,
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Any:  # Any: as above
        return self * (1 / divisor)

    def sum(
        self, axis: int | None = None, out: None = None
    ) -> Any:  # Any: a result, or an array of them
        """All of them as one result, or those along an axis. `out` is what `numpy.sum` hands on, and stays None."""
        if out is not None:
            raise InvalidInputError("Results do not sum up into an array of numbers.", "Leave out.")
        total = numpy.asarray(self.latency.sum(axis=axis))
        spread = numpy.sqrt(numpy.square(self.uncertainty * self.latency).sum(axis=axis))
        relative = numpy.divide(spread, abs(total), out=numpy.zeros(total.shape), where=total != 0)
        found = PerformanceArray(
            total,
            energy=numpy.asarray(self.energy.sum(axis=axis)),
            ranks=numpy.asarray(self.ranks.max(axis=axis, initial=0)),
            uncertainty=relative,
        )
        return found if total.shape else found[()]

    def __repr__(self) -> str:
        return f"PerformanceArray({self.latency} ms, {', '.join(numpy.unique(self.origin))})"


def spread(
    found: PerformanceArray | PerformanceResult, shape: tuple[int, ...]
) -> Any:  # Any: as it was where the shape is (), else an array
    """A result, or an array of them, over a shape."""
    if isinstance(found, PerformanceResult):
        if not shape:
            return found
        energy = numpy.nan if found.energy is None else found.energy
        return PerformanceArray(
            numpy.full(shape, float(found)),
            energy=numpy.full(shape, energy),
            ranks=numpy.full(shape, origin_rank(found.origin), dtype=numpy.int8),
            uncertainty=numpy.full(shape, found.uncertainty),
        )
    if found.shape == shape:
        return found
    return PerformanceArray(
        numpy.broadcast_to(found.latency, shape),
        energy=numpy.broadcast_to(found.energy, shape),
        ranks=numpy.broadcast_to(found.ranks, shape),
        uncertainty=numpy.broadcast_to(found.uncertainty, shape),
    )
