"""PerformanceResult: what an op or a sum of ops takes, where the number comes from and how far it may be off.

Sums keep the worst origin, and combine the errors of their parts, of latency and of energy, as independent ones; a
repetition has the same error each time, so scaling keeps the relative uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Latency in ms, as a float, with energy in W*ms (None where unknown), origin and relative uncertainty (one sigma),
    that of the energy too.

    Adding a result or a number, multiplying and dividing by a number give results, numpy's numbers included; all else
    a float can do gives plain floats, and an array of numbers gives a plain array.
    """

    __slots__ = ("energy", "energy_uncertainty", "origin", "uncertainty")
    __array_priority__ = 1000  # numpy leaves `number + result` to this class
    energy: float | None
    energy_uncertainty: float
    origin: str
    uncertainty: float

    def __new__(
        cls,
        latency: float,
        *,
        energy: float | None = None,
        origin: str = "measured",
        uncertainty: float = 0.0,
        energy_uncertainty: float = 0.0,
    ) -> PerformanceResult:
        origin_rank(origin)
        result = super().__new__(cls, latency)
        result.energy, result.origin, result.uncertainty = energy, origin, uncertainty
        result.energy_uncertainty = energy_uncertainty
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
        total = PerformanceArray.of(self) + PerformanceArray.of(other)
        return total[()]

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
            energy_uncertainty=self.energy_uncertainty,
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Any:  # Any: as above
        if isinstance(divisor, numpy.ndarray):
            return float(self) / divisor
        if isinstance(divisor, PerformanceResult) or not isinstance(divisor, _NUMBER):
            return float.__truediv__(self, divisor)
        return self * (1 / float(divisor))

    def __repr__(self) -> str:
        energy = ""
        if self.energy is not None:
            energy = f", energy={self.energy:.6g} ± {self.energy_uncertainty:.1%}"
        return f"PerformanceResult({float(self):.6g} ms ± {self.uncertainty:.1%}, {self.origin}{energy})"

    def __reduce__(self) -> tuple[Any, ...]:
        held = (self.energy, self.origin, self.uncertainty, self.energy_uncertainty)
        return _restore, (float(self), *held)


def _restore(
    latency: float, energy: float | None, origin: str, uncertainty: float, energy_uncertainty: float
) -> PerformanceResult:
    return PerformanceResult(
        latency,
        energy=energy,
        origin=origin,
        uncertainty=uncertainty,
        energy_uncertainty=energy_uncertainty,
    )


def relative(deviation: Floats, total: Floats) -> Floats:
    """A deviation over its value; 0 where that is 0 or unknown."""
    known = numpy.isfinite(total) & (total != 0)
    found: Floats = numpy.divide(
        deviation, numpy.abs(total), out=numpy.zeros(numpy.shape(total)), where=known
    )
    return found


class PerformanceArray:
    """Results over workloads: arrays of one shape for latency in ms, energy in W*ms (nan where unknown), `ranks`
    (places in ORIGINS) and relative uncertainty of latency and of energy. Indexing gives a PerformanceResult, or a
    smaller array.
    """

    __slots__ = ("energy", "energy_uncertainty", "latency", "ranks", "uncertainty")
    __array_priority__ = 1000  # numpy leaves `array + results` to this class

    def __init__(
        self,
        latency: Floats,
        *,
        energy: Floats | float = numpy.nan,
        ranks: Ranks,
        uncertainty: Floats,
        energy_uncertainty: Floats | float = 0.0,
    ) -> None:
        self.latency = latency
        self.energy, self.energy_uncertainty = map(numpy.asarray, (energy, energy_uncertainty))
        self.ranks, self.uncertainty = ranks, uncertainty
        # One number, or the field of a sum with an array of more dimensions.
        for name in ("energy", "energy_uncertainty", "ranks", "uncertainty"):
            held = getattr(self, name)
            if held.shape != latency.shape:
                setattr(self, name, numpy.broadcast_to(held, latency.shape))

    @classmethod
    def of(cls, one: PerformanceResult) -> PerformanceArray:
        """An array of no dimension."""
        return cls(
            numpy.asarray(float(one)),
            energy=numpy.nan if one.energy is None else one.energy,
            ranks=numpy.asarray(origin_rank(one.origin), dtype=numpy.int8),
            uncertainty=numpy.asarray(one.uncertainty),
            energy_uncertainty=one.energy_uncertainty,
        )

    def each(self, change: Callable[..., Any], *others: PerformanceArray) -> PerformanceArray:
        """The results of which every array is `change` of the arrays of these and of `others`."""
        all_ = (self, *others)
        made = {name: change(*(getattr(one, name) for one in all_)) for name in self.__slots__}
        return PerformanceArray(**made)

    def alike(
        self, add: Callable[[Floats], Floats], worst: Callable[[Ranks], Ranks]
    ) -> PerformanceArray:
        """Sums or means of results that err alike: `add` of values and of their deviations, `worst` of ranks."""
        latency = add(self.latency)
        error = relative(add(self.latency * self.uncertainty), latency)
        energy, energy_error = numpy.asarray(numpy.nan), numpy.zeros(())
        if not numpy.isnan(self.energy).all():
            energy = add(self.energy)
            energy_error = relative(add(self.energy * self.energy_uncertainty), energy)
        return PerformanceArray(
            latency,
            energy=energy,
            ranks=worst(self.ranks),
            uncertainty=error,
            energy_uncertainty=energy_error,
        )

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
        if isinstance(latency, numpy.ndarray):
            return self.each(lambda held: held[index])
        energy = float(self.energy[index])
        return PerformanceResult(
            float(latency),
            energy=None if numpy.isnan(energy) else energy,
            origin=ORIGINS[self.ranks[index]],
            uncertainty=float(self.uncertainty[index]),
            energy_uncertainty=float(self.energy_uncertainty[index]),
        )

    def __add__(self, other: Any) -> Any:  # Any: a number, a result, an array of either
        if isinstance(other, PerformanceResult):
            other = PerformanceArray.of(other)
        elif not isinstance(other, PerformanceArray):
            none = numpy.zeros(())
            other = PerformanceArray(
                numpy.asarray(other), energy=0.0, ranks=none.astype(numpy.int8), uncertainty=none
            )
        total, energy = self.latency + other.latency, self.energy + other.energy
        spread = numpy.hypot(self.uncertainty * self.latency, other.uncertainty * other.latency)
        spread_energy = numpy.hypot(
            self.energy_uncertainty * self.energy, other.energy_uncertainty * other.energy
        )
        return PerformanceArray(
            total,
            energy=energy,
            ranks=numpy.maximum(self.ranks, other.ranks).astype(numpy.int8),
            uncertainty=relative(spread, total),
            energy_uncertainty=relative(spread_energy, energy),
        )

    __radd__ = __add__

    def __mul__(self, factor: Any) -> Any:  # Any: a number or an array of numbers
        return PerformanceArray(
            self.latency * factor,
            energy=self.energy * factor,
            ranks=self.ranks,
            uncertainty=self.uncertainty,
            energy_uncertainty=self.energy_uncertainty,
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
        total, energy = (numpy.asarray(held.sum(axis=axis)) for held in (self.latency, self.energy))
        spread, spread_energy = (
            numpy.sqrt(numpy.square(error * held).sum(axis=axis))
            for error, held in (
                (self.uncertainty, self.latency),
                (self.energy_uncertainty, self.energy),
            )
        )
        found = PerformanceArray(
            total,
            energy=energy,
            ranks=numpy.asarray(self.ranks.max(axis=axis, initial=0)),
            uncertainty=relative(spread, total),
            energy_uncertainty=relative(spread_energy, energy),
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
        found = PerformanceArray.of(found)
    if found.shape == shape:
        return found
    return found.each(lambda held: numpy.broadcast_to(held, shape))
