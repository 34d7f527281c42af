"""Pairs: what both lists have of one op, with both prices, at the reference's repetitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parity_lists import PHASES, Line
from parity_local import our_lines, reference_lines
from parity_records import Json, Record
from parity_sites import CORES, Site, compare, text_of, within
from parity_wholes import dealt

from oplib.op import Op
from perfdb.database import PerfDatabase

CLOSE = 0.03
SILICON = ("silicon", "mixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One line of ours priced: all its occurrences. A generation's `ms` is that of the first step, `mean_ms` that of
    all steps. Of parts of a module that was measured whole, the prices add up to the module's."""

    line: Line
    op: Op
    ms: float
    mean_ms: float
    sol_ms: float
    origin: str
    uncertainty: float
    whole: str = ""  # the kind of the module whose price this is a part of

    @property
    def each(self) -> float:
        return self.ms / self.op.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One op of either list, or a block of the reference with the parts that ours has of it.

    `ours` and `theirs` are ms at the reference's repetitions. `lines` are the reference's, `repetitions` how often it
    runs the op or the block. Of a block whose parts run side by side, `ours` is the longer stream and `summed` all.
    """

    record: Record
    phase: str
    label: str
    costs: tuple[Cost, ...]
    lines: tuple[Line, ...]
    ours: float
    theirs: float
    sol_ours: float
    sol_theirs: float
    summed: float
    repetitions: int
    source: str
    absent: tuple[str, ...] = ()  # parts of the block that ours lacks

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def close(self) -> bool:
        return abs(self.ratio - 1) <= CLOSE

    @property
    def silicon(self) -> bool:
        """Whether both prices rest on measurements; the pointwise ops inside a block have none in ours."""
        return self.origin not in ("empirical", "sol") and self.source in SILICON

    @property
    def origin(self) -> str:
        """The worst of ours, pointwise ops apart."""
        named = (cost.origin for cost in self.costs if cost.line.kind != "pointwise")
        return max(named, key=ORIGINS.index)

    @property
    def block(self) -> bool:
        return bool(self.lines[0].stream)


ORIGINS = ("sol", "measured", "interpolated", "extrapolated", "empirical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A record with its pairs, what only one list has, and the sums."""

    record: Record
    pairs: list[Pair] = field(default_factory=list)
    only_ours: list[Cost] = field(default_factory=list)
    only_theirs: list[tuple[str, str, float]] = field(default_factory=list)  # phase, name, ms
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    sol_ttft_ms: float = 0.0
    failure: str = ""


def compare_record(
    record: Record, report: Json, entry: Json, *, db: PerfDatabase, bounds: PerfDatabase
) -> Compared:
    """Our list in `report`, priced at the record's workload, against its prices of the reference's list `entry`."""
    served = _served(report, record, entry)
    mine = [line for line in our_lines(served) if line.kind != "primitive"]
    around = list(pointwise(served))
    every = [cost(line, record, db=db, bounds=bounds) for line in (*mine, *around)]
    every = _with_modules(every, served, record, db=db, bounds=bounds)
    costs, quiet = every[: len(mine)], every[len(mine) :]
    lines = reference_lines(entry)
    found = Compared(record=record)
    for phase in PHASES:
        of_phase = [c for c in costs if c.line.phase == phase]
        theirs = [line for line in lines if line.phase == phase]
        beside = [c for c in quiet if c.line.phase == phase]
        found.pairs.extend(_pairs(record, phase, of_phase, theirs, beside))
    paired = {id(c) for pair in found.pairs for c in pair.costs}
    named = {line.block for pair in found.pairs for line in pair.lines}
    both = [*costs, *quiet]
    return replace(
        found,
        only_ours=[c for c in both if id(c) not in paired],
        only_theirs=[
            (phase, name, price.ms)
            for phase in PHASES
            for name, price in record.prices[phase].items()
            if name not in named and price.ms
        ],
        ttft_ms=sum(c.ms for c in both if c.line.phase == "context"),
        tpot_ms=sum(c.mean_ms for c in both if c.line.phase == "generation"),
        sol_ttft_ms=sum(c.sol_ms for c in both if c.line.phase == "context"),
    )


def _served(report: Json, record: Record, entry: Json) -> Json:
    """The report with what serving decides and no config says, as the record has it: how the cache is stored, and how
    tokens fall on experts."""
    kinds = {op["params"].get("workload_distribution") for op in entry["context_ops"]} - {None}
    chosen: dict[str, Any] = {"kv_dtype": record.quant["kvcache"]}
    if kinds:
        chosen["distribution"] = kinds.pop()
    phases = {
        phase: [
            {**op, "params": {**op["params"], **_kept(chosen, op["params"])}}
            for op in report["op_list"]["phases"][phase]
        ]
        for phase in PHASES
    }
    return {**report, "op_list": {**report["op_list"], "phases": phases}}


def _kept(chosen: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if name in params}


def _with_modules(
    costs: list[Cost], report: Json, record: Record, *, db: PerfDatabase, bounds: PerfDatabase
) -> list[Cost]:
    """The costs in their order, with modules that the tables have whole priced so."""
    place = {id(c): i for i, c in enumerate(costs)}
    found = list(costs)
    for phase in PHASES:
        ops = [Op.from_json(op) for op in report["op_list"]["phases"][phase]]

        def price(op: Op, phase: str = phase) -> Cost:
            line = Line(
                phase=phase, kind=op.op, shape=(), count=op.count, name=op.name, op=op.to_json()
            )
            return cost(line, record, db=db, bounds=bounds)

        mine = [c for c in costs if c.line.phase == phase]
        for before, after in zip(mine, dealt(mine, ops, phase, price), strict=True):
            found[place[id(before)]] = after
    return found


def pointwise(report: Json) -> Iterator[Line]:
    """The lines that `parity_lists.ours` leaves out."""
    for phase in PHASES:
        for op in report["op_list"]["phases"][phase]:
            if op["op"] == "pointwise":
                yield Line(
                    phase=phase,
                    kind="pointwise",
                    shape=(),
                    count=op["count"],
                    name=op["name"],
                    layer=op["layer"],
                    where=next(iter(op["where"]), ""),
                    op=op,
                )


def cost(line: Line, record: Record, *, db: PerfDatabase, bounds: PerfDatabase) -> Cost:
    """A line of ours at the record's workload."""
    import numpy

    op, workload = Op.from_json(line.op), record.workload
    if line.phase == "context":
        place: dict[str, Any] = {"b": workload.batch, "s": workload.isl, "p": 0}
        weights = numpy.ones(1)
    else:
        place = {"b": workload.batch, "s": 1, "p": numpy.array(workload.steps)}
        weights = numpy.array(workload.weights) / sum(workload.weights)
    first = {**place, "p": workload.isl if line.phase == "generation" else 0}
    result, bound = db.query(op, **first), float(bounds.query(op, **first))
    every = numpy.broadcast_to(numpy.asarray(db.query(op, **place).latency), weights.shape)
    return Cost(
        line=line,
        op=op,
        ms=float(result),
        mean_ms=float(every @ weights),
        sol_ms=bound,
        origin=result.origin,
        uncertainty=float(result.uncertainty),
    )


def _pairs(
    record: Record, phase: str, costs: list[Cost], lines: list[Line], around: list[Cost]
) -> Iterator[Pair]:
    by_line = {id(c.line): c for c in costs}
    sites = [site for site in compare([c.line for c in costs], lines) if site.reference_lines]
    for group in _joined(sites):
        named = {line.block for site in group for line in site.reference_lines}
        priced = [record.prices[phase][name] for name in sorted(named)]
        if not any(site.our_lines for site in group) or not sum(price.ms for price in priced):
            continue
        yield _pair(record, phase, group, by_line, around, priced)


def _joined(sites: list[Site]) -> list[list[Site]]:
    """Sites in groups; two are in one where a block of the reference has parts in both."""
    groups: list[tuple[set[str], list[Site]]] = []
    for site in sites:
        names = {line.block for line in site.reference_lines}
        touching = [group for group in groups if group[0] & names]
        merged = (names.union(*(g[0] for g in touching)), [s for g in touching for s in g[1]])
        groups = [group for group in groups if group not in touching]
        groups.append((merged[0], [*merged[1], site]))
    return [group for _, group in groups]


def _pair(
    record: Record,
    phase: str,
    sites: list[Site],
    by_line: Mapping[int, Cost],
    around: list[Cost],
    priced: list[Any],
) -> Pair:
    lines = tuple(line for site in sites for line in site.reference_lines)
    costs = [by_line[id(line)] for site in sites for line in site.our_lines]
    counts = [line.count for line in lines]
    times = min(counts) if len(sites) > 1 else sum(counts)
    streams: dict[str, float] = {}
    bound = 0.0
    for site in sites:
        if site.our_lines:
            mine = [by_line[id(line)] for line in site.our_lines]
            scale = site.reference / site.ours
            stream = site.reference_lines[0].stream
            streams[stream] = streams.get(stream, 0.0) + scale * sum(c.ms for c in mine)
            bound += scale * sum(c.sol_ms for c in mine)
    inside = _inside(costs, around) if lines[0].stream else []
    costs += inside
    summed = sum(streams.values()) + sum(c.ms for c in inside)
    longest = max(streams.values())
    return Pair(
        record=record,
        phase=phase,
        label=_label(sites, lines),
        costs=tuple(costs),
        lines=lines,
        ours=longest if len(streams) > 1 else summed,
        theirs=sum(price.ms for price in priced),
        sol_ours=bound,
        sol_theirs=sum(price.sol_ms for price in priced),
        summed=summed,
        repetitions=times,
        source=_worst(price.source for price in priced),
        absent=tuple(text_of(s.kind, s.shape) for s in sites if not s.our_lines),
    )


def _inside(costs: list[Cost], around: list[Cost]) -> list[Cost]:
    """The pointwise ops in the attention modules whose parts `costs` are."""
    modules = {c.line.where for c in costs if c.line.kind in CORES}
    return [c for c in around if within(c.line.where, modules)]


def _label(sites: list[Site], lines: tuple[Line, ...]) -> str:
    if len(sites) == 1:
        return text_of(sites[0].kind, sites[0].shape)
    return f"block of {len(sites)}: " + ", ".join(sorted({line.block for line in lines}))


def _worst(sources: Iterable[str]) -> str:
    order = ("sol", "silicon", "mixed", "empirical")
    return max(sources, key=order.index)
