"""PerfDatabase: what an op costs on one system, by the tables of one backend, under one mode.

`sol` is the bound. `empirical` divides it by a stated efficiency. `silicon` is measured or estimated between measured
rows, else an error; it never falls back. `hybrid` is silicon where there is any, else empirical, and each result says
which in its origin; where a sister has rows (`perfdb.sisters`), they give the efficiency, and go before an estimate
that is more uncertain; of a collective, rows over another number of GPUs do (`perfdb.group_sizes`). `sol_full` gives
the bound next to its sides.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy

from oplib.arithmetic import Amount
from oplib.errors import InvalidInputError, PerfDataNotAvailableError
from oplib.kind import Dims, OpKind
from oplib.op import Op
from oplib.params import Params, ParamValue
from perfdb.arrays import Floats, Ints, numbered
from perfdb.columns import plain
from perfdb.efficiency import Group, coordinates, groups_of, sized
from perfdb.empirical import efficiency_of, stated_ms
from perfdb.estimator import Estimator
from perfdb.foreign import Shelf
from perfdb.group_sizes import of_other_group
from perfdb.lending import Lender
from perfdb.performance import PerformanceArray, PerformanceResult, Ranks, origin_rank, spread
from perfdb.places import Places
from perfdb.power import Power, PowerFit
from perfdb.response import EXTRAPOLATED, Response
from perfdb.sisters import scaling_of, sisters_of
from perfdb.speed_of_light import bounds_ms, spans_servers
from perfdb.substitutes import answering, runnable
from perfdb.systems import System, load_system
from perfdb.tables import Table, read_table

MODES = ("sol", "sol_full", "empirical", "silicon", "hybrid")
COVERAGES = ("exact", "interpolable", "outside", "missing")

_ROUNDING = 1e-12  # of a measured time that becomes a ratio and a time again
_DOUBTFUL = 0.02  # what is stated to be nearer than this asks no sister

Result: TypeAlias = PerformanceResult | PerformanceArray
Key: TypeAlias = tuple[str, tuple[ParamValue, ...]]  # a kind and values of its parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the database knows of one op: the parameters it is priced with, times, power, and why it has none.

    `fastest` is the share of the bound below which no estimate goes; `stand_in` says that the rows are of another
    quantisation than would run.
    """

    params: Params
    latency: Response | None = None
    power: Power | None = None
    launch: float = 0.0
    fastest: float = 0.0
    stand_in: bool = False
    missing: str = ""
    nearest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What is estimated of one group of rows: latency, and power where the table has it."""

    latency: Estimator
    power: PowerFit | None

    @classmethod
    def of(cls, group: Group, system: System) -> Fit:
        """The estimators of a group."""
        return cls(latency=Estimator.fit(group), power=PowerFit.of(group, system))

    @property
    def launch(self) -> float:
        """ms of a kernel of these rows that has nothing to do."""
        return self.latency.group.launch

    @property
    def fastest(self) -> float:
        """The bound, or less of it where a measured row takes less: what lies between rows is no faster than both."""
        group = self.latency.group
        share = group.rows.latency / numpy.maximum(group.bounds, 1e-30)
        return min(1.0, float(share.min()) * (1 - _ROUNDING))


class PerfDatabase:
    """Prices of ops on one system. Tables are read, and knots estimated, when an op first asks for them."""

    def __init__(
        self,
        system: System,
        *,
        backend: str = "",
        version: str = "",
        mode: str = "hybrid",
        data: Path | None = None,
    ) -> None:
        if mode.lower() not in MODES:
            raise InvalidInputError(f"Unknown mode {mode!r}.", f"Known: {', '.join(MODES)}.")
        if mode.lower() == "silicon" and not backend:
            raise InvalidInputError("Mode 'silicon' needs a backend.", "Name one with --backend.")
        self.system, self.backend, self.version, self.data = system, backend, version, data
        self.mode = mode.lower()
        self.notes: dict[str, None] = {}  # a set that keeps the order
        self.borrowed: dict[str, dict[str, None]] = {}  # kinds, by whose rows stand in
        self._shelf: Shelf | None = None
        self._kin: list[Lender] | None = None
        self._tables: dict[str, list[Table] | str] = {}
        self._entries: dict[Key, Entry] = {}
        self._told: dict[str, list[str]] = {}  # parameters in which rows of a kind are told apart
        self._fits: dict[Key, Fit | None] = {}
        self._powered: dict[str, bool] = {}  # whether rows of a kind have power

    @classmethod
    def load(
        cls,
        *,
        system: str,
        backend: str = "",
        version: str = "",
        mode: str = "hybrid",
        data: Path | None = None,
    ) -> PerfDatabase:
        """The database of a system by name; without a backend no table is asked."""
        return cls(load_system(system), backend=backend, version=version, mode=mode, data=data)

    def price(self, kind: OpKind, params: Params, dims: Dims) -> Result:
        """One occurrence: a result, or an array of them where a dim is an array. `params` complete.

        A lone GPU has nobody to send to: it takes no time, in every mode.
        """
        if kind.role == "communication" and params["num_gpus"] == 1:
            nothing = numpy.zeros(numpy.shape(dims["bytes"]))
            return _result(nothing, nothing, origin_rank("measured"), nothing)
        entry = self.entry(kind, params, dims)
        sizes = dims if entry.latency is None else kind.worked(entry.params, dims)
        least = bounds_ms(kind, entry.params, sizes, self.system)[0]
        bound = numpy.asarray(least, dtype=numpy.float64)
        if self.mode in ("sol", "sol_full"):
            return _result(bound, bound * 0.0, origin_rank("sol"))
        if self.mode != "empirical" and entry.latency is not None:
            found = self.silicon(entry, dims, bound)
            return _plain(
                self._better(found, kind, params, dims) if self.mode == "hybrid" else found
            )
        if self.mode == "silicon":
            raise PerfDataNotAvailableError(
                f"No measurement of {kind.name} with {_spell(entry.params, params)}: {entry.missing}",
                entry.nearest,
            )
        if spans_servers(kind, entry.params, self.system):
            # What was measured of links within a server says nothing of a network; its spread has to do.
            stated_error = efficiency_of(kind, entry.params, self.backend).uncertainty
            return _result(bound, bound * 0.0 + stated_error, origin_rank("sol"))
        if self.mode == "hybrid" and (lent := self._lent(kind, params, dims)):
            sister, borrowed = lent
            self.borrowed.setdefault(sister, {})[kind.name] = None
            return _plain(borrowed)
        if self.mode == "hybrid" and (regrouped := of_other_group(self, kind, params, dims)):
            group, resized = regrouped
            self.borrowed.setdefault(f"{group} GPUs", {})[kind.name] = None
            return _plain(resized)
        stated = stated_ms(kind, entry.params, dims, self.system, backend=self.backend)
        latency, uncertainty = map(numpy.asarray, stated)
        return _result(latency, latency * 0.0 + uncertainty, origin_rank("empirical"))

    def sides(self, kind: OpKind, params: Params, dims: Dims) -> tuple[Result, Result, Result]:
        """Bound, and its sides by FLOPs and by bytes over memory or links, of one occurrence (`bounds_ms`)."""
        found = bounds_ms(kind, self.entry(kind, params, dims).params, dims, self.system)
        sol = origin_rank("sol")
        bound, compute, memory = numpy.broadcast_arrays(
            *(numpy.asarray(side, dtype=numpy.float64) for side in found)
        )
        return (
            _result(bound, bound * 0.0, sol),
            _result(compute, bound * 0.0, sol),
            _result(memory, bound * 0.0, sol),
        )

    def query(self, op: Op, *, b: Amount, s: Amount = 1, p: Amount = 0) -> Any:  # Any: by mode
        """All occurrences of an op at a workload; under `sol_full` a triple of results, as `sides`.

        Where b, s or p is an array, so is what comes back, in the shape of the three, whichever the op varies with.
        Raises InvalidInputError where one is negative.
        """
        shape = _shape_of(b=b, s=s, p=p)
        dims = op.dims_at(b=b, s=s, p=p)
        if self.mode == "sol_full":
            sides = self.sides(op.kind, op.params, dims)
            return tuple(spread(side * op.count, shape) for side in sides)
        return spread(self.price(op.kind, op.params, dims) * op.count, shape)

    def coverage(self, op: Op, *, b: Amount, s: Amount = 1, p: Amount = 0) -> str:
        """How the tables cover an op at a workload: one of COVERAGES, the worst where it is an array."""
        _shape_of(b=b, s=s, p=p)
        dims = op.dims_at(b=b, s=s, p=p)
        entry = self.entry(op.kind, op.params, dims)
        if entry.latency is None:
            return "missing"
        return COVERAGES[int(entry.latency.ranks(dims).max())]

    def entry(self, kind: OpKind, params: Params, dims: Dims) -> Entry:
        """What is known of the op with these parameters."""
        key = (kind.name, tuple(params.values()))
        if key not in self._entries:
            self._entries[key] = self._find(kind, params, dims)
        return self._entries[key]

    def table(self, kind: OpKind) -> Table | str:
        """The rows of a kind that are asked first, or why there are none."""
        if kind.name not in self._tables:
            self._tables[kind.name] = self._read(kind)
        found = self._tables[kind.name]
        return found if isinstance(found, str) else found[0]

    def shelf(self) -> Shelf:
        """The tables of its backend; raises where there are none, or none of its version."""
        self._shelf = self._shelf or Shelf.of(
            system=self.system.id, backend=self.backend, version=self.version, data=self.data
        )
        return self._shelf

    def _read(self, kind: OpKind) -> list[Table] | str:
        """The tables of one version, which may have the kind in several files, or why there are none."""
        if not self.backend:
            return "no backend was named"
        try:
            shelf = self.shelf()
        except PerfDataNotAvailableError as error:
            return error.message
        paths = shelf.tables(kind)
        found: list[Table] = []
        missing = "" if paths else shelf.lack(kind)
        for path in paths:
            if found and path.parent != found[0].path.parent:
                continue
            try:
                found.append(read_table(path, kind))
            except PerfDataNotAvailableError as error:  # rows of other kinds alone
                missing = missing or error.message
        return found or missing

    def _find(self, kind: OpKind, params: Params, dims: Dims) -> Entry:
        table = None if self.mode in ("sol", "sol_full", "empirical") else self.table(kind)
        params, notes = runnable(kind, params, self.system)
        self.notes |= dict.fromkeys(notes)
        if not isinstance(table, Table):
            return Entry(params=params, missing=table or "tables were not asked.")
        answers, notes = answering(kind, params, table)
        stand_in = answers != params
        if stand_in and not (self.mode == "hybrid" and self._sister_has(kind, params, dims)):
            self.notes |= dict.fromkeys(notes)
            params = answers
        if given := [name for name in kind.dim_params if name in dims]:
            return Entry(params=params, missing=f"{', '.join(given)} varies with the workload.")
        fit = self._fit(table, params)
        if fit is None:
            return Entry(
                params=params,
                missing=f"{table.path} has no such rows.",
                nearest=_nearest(table, params),
            )
        return Entry(
            params=params,
            latency=Response(kind, params, fit.latency),
            power=None if fit.power is None else fit.power.response(kind, params),
            launch=fit.launch,
            fastest=fit.fastest,
            stand_in=stand_in,
        )

    def _fit(self, table: Table, params: Params) -> Fit | None:
        """The estimators of the rows that agree with `params`: one pair for all ops between these rows."""
        tables = self._tables[table.kind.name]
        assert not isinstance(tables, str)
        if table.kind.name not in self._told:
            self._told[table.kind.name] = [*matching(table.kind), *_told_apart(tables)]
        told = self._told[table.kind.name]
        key = (table.kind.name, tuple(params[name] for name in told))
        if key not in self._fits:
            groups = [group for one in tables for group in _groups(one, params, self.system)]
            self._fits[key] = Fit.of(_closest(groups, params), self.system) if groups else None
        return self._fits[key]

    def _better(
        self, found: PerformanceArray, kind: OpKind, params: Params, dims: Dims
    ) -> PerformanceArray:
        """The results, with a sister's times where these are less uncertain than what was not measured, and with her
        power where our table of the kind has too little of it."""
        doubtful = found.ranks > origin_rank("measured")
        doubtful &= found.uncertainty > _DOUBTFUL
        silent = numpy.isnan(found.energy) & self._has_power(kind)
        lent = self._lent(kind, params, dims) if (doubtful | silent).any() else None
        if lent is None:
            return found
        sister, other = lent
        taken = doubtful & (other.uncertainty < found.uncertainty)
        told = silent & ~numpy.isnan(other.energy)
        for some, word in ((taken, kind.name), (told, f"{kind.name} (power)")):
            if some.any():
                self.borrowed.setdefault(sister, {})[word] = None
        latency = numpy.where(taken, other.latency, found.latency)
        power = numpy.where(told, other.power, found.power)
        return PerformanceArray(
            latency,
            energy=power * latency,
            ranks=numpy.where(taken, other.ranks, found.ranks).astype(numpy.int8),
            uncertainty=numpy.where(taken, other.uncertainty, found.uncertainty),
            energy_uncertainty=numpy.where(
                told, other.energy_uncertainty, found.energy_uncertainty
            ),
        )

    def _has_power(self, kind: OpKind) -> bool:
        """Whether a row of ours has power."""
        if kind.name not in self._powered:
            table = self.table(kind)
            power = table.power if isinstance(table, Table) else None
            self._powered[kind.name] = power is not None and bool(numpy.isfinite(power).any())
        return self._powered[kind.name]

    def _lent(
        self, kind: OpKind, params: Params, dims: Dims
    ) -> tuple[str, PerformanceArray] | None:
        """A sister and what her rows say; None where none has any, or no scaling is stated."""
        scaling = scaling_of(kind, params, self.backend)
        if scaling is None:
            return None
        for lender in self._lenders():
            if (lent := lender.lend(kind, params, dims, scaling)) is not None:
                return lender.sister.system.id, lent
        return None

    def _sister_has(self, kind: OpKind, params: Params, dims: Dims) -> bool:
        """Whether a sister has rows of just this op that can be scaled."""
        if scaling_of(kind, params, self.backend) is None:
            return False
        found = (lender.sister.entry(kind, params, dims) for lender in self._lenders())
        return any(one.latency is not None and not one.stand_in for one in found)

    def _lenders(self) -> list[Lender]:
        """The sister systems that have tables of the same backend and version."""
        if self._kin is None:
            self._kin = []
            for other in sisters_of(self.system):
                with suppress(InvalidInputError, PerfDataNotAvailableError):
                    kin = PerfDatabase(
                        other,
                        backend=self.backend,
                        version=self.version,
                        mode="silicon",
                        data=self.data,
                    )
                    kin.shelf()
                    self._kin.append(Lender(self, kin))
        return self._kin

    def silicon(self, entry: Entry, dims: Dims, bound: Floats) -> PerformanceArray:
        """What rows say of an op that has a response, where its bound in ms is so."""
        assert entry.latency is not None
        ratio, deviation, rank = entry.latency.at(dims)
        latency = numpy.exp(ratio) * (bound + entry.launch)
        # Rows may beat a bound whose bytes a cache keeps; nothing says that an op beyond all rows does.
        fastest = numpy.where(rank == EXTRAPOLATED, 1.0, entry.fastest)
        latency = numpy.maximum(latency, fastest * bound)
        uncertainty = numpy.expm1(deviation)
        energy, error = numpy.full(latency.shape, numpy.nan), numpy.zeros(latency.shape)
        if entry.power is not None:
            power, apart = entry.power.at(dims, bound / latency)
            energy, error = power * latency, numpy.hypot(uncertainty, apart)
        return PerformanceArray(
            latency,
            energy=energy,
            ranks=numpy.broadcast_to(numpy.asarray(rank, dtype=numpy.int8), latency.shape),
            uncertainty=uncertainty,
            energy_uncertainty=error,
        )


def _result(
    latency: Floats, uncertainty: Floats, rank: Ranks | int, energy: Floats | float = numpy.nan
) -> Result:
    """Arrays as results; a lone number as one result."""
    ranks = numpy.broadcast_to(numpy.asarray(rank, dtype=numpy.int8), latency.shape)
    return _plain(PerformanceArray(latency, energy=energy, ranks=ranks, uncertainty=uncertainty))


def _plain(found: PerformanceArray) -> Result:
    """A lone number as one result."""
    return found if found.shape else found[()]


def _shape_of(**sizes: Amount) -> tuple[int, ...]:
    """The common shape of the sizes of a workload; a negative one is refused."""
    for name, size in sizes.items():
        if (numpy.asarray(size) < 0).any():
            raise InvalidInputError(f"{name} is {size}.", "No size of a workload is negative.")
    return numpy.broadcast_shapes(*(numpy.shape(size) for size in sizes.values()))


def matching(kind: OpKind) -> list[str]:
    """Parameters in which a row and an op have to agree."""
    skipped = {*kind.coordinates, *kind.immaterial}
    return [param.name for param in kind.params if param.name not in skipped]


def _told_apart(tables: list[Table]) -> list[str]:
    """Immaterial parameters in which rows of the tables differ."""
    return [
        name
        for name in tables[0].kind.immaterial
        if len({plain(value) for table in tables for value in table.params[name].values}) > 1
    ]


def _groups(table: Table, params: Params, system: System) -> list[Group]:
    """The rows that answer an op with these parameters; at each place those that agree in most of what is
    immaterial."""
    kind = table.kind
    chosen = numpy.ones(len(table), dtype=bool)
    for name in matching(kind):
        chosen &= table.params[name].equal(params[name])
    if not chosen.any():
        return []
    rows = table.take(chosen)
    if _told_apart([rows]):
        rows = rows.take(sized(rows))
        agreed = _agreement(rows, params)
        codes = numbered(Places(coordinates(kind, rows.columns)).codes)
        most = numpy.zeros(len(rows), dtype=agreed.dtype)
        numpy.maximum.at(most, codes, agreed)
        rows = rows.take(agreed == most[codes])
    return list(groups_of(rows, system, matching(kind)))


def _agreement(rows: Table, params: Params) -> Ints:
    """In how many immaterial parameters each row agrees."""
    agreed: Ints = numpy.zeros(len(rows), dtype=numpy.intp)
    for name in rows.kind.immaterial:
        agreed += rows.params[name].equal(params[name])
    return agreed


def _closest(groups: list[Group], params: Params) -> Group:
    """The group whose rows agree most with `params` in what is immaterial; of equals, the largest."""

    def fits(group: Group) -> tuple[float, int]:
        return float(_agreement(group.rows, params).mean()), len(group.ratios)

    return max(groups, key=fits)


def _nearest(table: Table, params: Params) -> str:
    """What the rows have that agree with `params` in most: the values in which they differ."""
    names = matching(table.kind)
    same = numpy.stack([table.params[name].equal(params[name]) for name in names])
    best = table.take(same.sum(axis=0) == same.sum(axis=0).max())
    differs = [name for name in names if not best.params[name].equal(params[name]).any()]
    found = {name: sorted(map(str, best.params[name].used)) for name in differs}
    if not found:  # their sizes or times are none
        return "Its rows of these parameters have no usable times."
    return "Nearest: " + "; ".join(f"{name} {', '.join(v[:8])}" for name, v in found.items()) + "."


def _spell(params: Params, asked: Params) -> str:
    """The values of `params`, each that stands for another with the one that was asked."""
    return " ".join(
        f"{name}={value}" + (f" (in place of {asked[name]})" if value != asked[name] else "")
        for name, value in params.items()
    )
