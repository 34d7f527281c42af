"""Power: what a GPU draws beyond rest while an op runs, by the rows of a group that have it.

Power takes seconds to measure, so that a table has it for a sparse part of its rows. They are interpolated as log of W
over what is usual at the share of its bound that an op reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy

from oplib.kind import Dims, OpKind
from oplib.params import Params
from perfdb.arrays import Floats
from perfdb.efficiency import Group
from perfdb.estimator import Estimator
from perfdb.response import Response
from perfdb.systems import System

_FEWEST = 4  # rows that say something of the others
# Of its TDP, what a GPU draws in ops far from their bound, and how much more in ops at it. Of 151 rows of H100 and
# H200, each left out, two thirds are then within 19 % and 90 % within 52 %. Without rows of its group two thirds of
# the ops are within a factor of 2.2, which is why nothing is said of them.
_IDLING, _WORKING = 0.02, 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """The estimator of one group's rows, and the W beyond rest above which no estimate goes: what the GPU has at most,
    or a row of these."""

    estimator: Estimator
    most: float
    system: System

    @classmethod
    def of(cls, group: Group, system: System) -> PowerFit | None:
        """None where too few rows have power."""
        rows = _powered(group, system)
        if rows is None or rows.rows.power is None:
            return None
        most = max((_IDLING + _WORKING) * system.tdp.base, float(rows.rows.power.max()))
        return cls(estimator=Estimator.fit(rows), most=most, system=system)

    def response(self, kind: OpKind, params: Params) -> Power:
        """Of an op with these parameters."""
        return Power(response=Response(kind, params, self.estimator), fit=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The power of one op as its dims vary."""

    response: Response
    fit: PowerFit

    def at(self, dims: Dims, share: Floats) -> tuple[Floats, Floats]:
        """W beyond rest where the op reaches `share` of its bound, and how uncertain they are, relative."""
        over, deviation, _ = self.response.at(dims)
        watts = numpy.exp(over) * _usual(share, self.fit.system)
        return numpy.minimum(watts, self.fit.most), numpy.expm1(deviation)


def _powered(group: Group, system: System) -> Group | None:
    """The rows that have power, as log of it over what is usual in place of log ratios; None where too few have it."""
    power = group.rows.power
    if power is None:
        return None
    known = numpy.isfinite(power) & (power > 0)
    if known.sum() < min(_FEWEST, len(known)):
        return None
    usual = _usual(group.bounds[known] / group.rows.latency[known], system)
    return replace(
        group,
        rows=group.rows.take(known),
        points=group.points[known],
        ratios=numpy.log(power[known] / usual),
        bounds=group.bounds[known],
    )


def _usual(share: Floats, system: System) -> Floats:
    """W beyond rest of ops that reach a share of their bound."""
    return system.tdp.base * (_IDLING + _WORKING * numpy.minimum(share, 1.0))
