"""The ops of a sub-module on their own: each timed once per set of parameters and sizes, into a log of collect-ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from collector.align.kernels import Kernel, kernels_of
from collector.align.rested import RestedBench, steady
from collector.log import OK, Segment, latest, read_log
from collector.timing import Limits, WrongResult, disagreement
from collector.worker import Options, Worker, lacked_memory, now, one_line
from oplib.case import Case
from oplib.errors import InvalidInputError
from oplib.kernels.binding import Recorded
from oplib.kernels.compiled import Compiled
from oplib.kernels.registry import resolve, slots
from oplib.kernels.variant import Call, Inputs, Variant

Json = dict[str, Any]  # Any: an object that becomes JSON
CALLS = 3  # in the replay that kernels are read from


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """One occurrence of an op by itself: `latency` in ms (None where nothing ran, and `reason` why), its kernels."""

    variant: str
    latency: float | None
    kernels: tuple[Kernel, ...] = ()
    reason: str = ""


class Standalone:
    """Times ops on the device at hand; what the log in `folder` has is not measured again.

    The log has ops on random inputs, for tables. An op whose inputs are in `recorded` is also timed on those, each time
    that it is asked for: what was recorded belongs to one sub-module at one workload.
    """

    def __init__(
        self, device: str, system: str, folder: Path | None, *, seconds: float, sharers: int = 1
    ) -> None:
        self._worker = Worker(
            Options(device=device, system=system, check=False, seconds=seconds, sharers=sharers)
        )
        self.bench = RestedBench(self._worker.bench)
        self._seconds = seconds
        self.recorded = Recorded()
        self._known: dict[tuple[str, str, str], Json] = {}
        self._compiled: set[str] = set()
        self._segment: Segment | None = None
        self._provenance = self._worker.provenance()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            known = latest(read_log(folder)[0])
            self._known = {
                k: row for k, row in known.items() if not lacked_memory(row.get("reason", ""))
            }
            self._segment = Segment(folder)
            self._segment.append(self._provenance)

    def variant(self, case: Case, chosen: str | None) -> Variant | str:
        """What runs this case, or why nothing does. A variant that was asked for and cannot is an error."""
        if case.op not in slots():
            return f"no kernel of {case.op} is known"
        here = self.bench.hardware
        try:
            return resolve(case.op, chosen, device=here, params=case.params, dims=case.dims)
        except InvalidInputError as error:
            if chosen is not None:
                raise
            return f"{error.message} {error.hint}"

    def measure(self, case: Case, chosen: str | None) -> Alone:
        """The case on its own."""
        variant = self.variant(case, chosen)
        if isinstance(variant, str):
            return Alone(variant="", latency=None, reason=variant)
        timed = self._row("time", variant, case, self._timed)
        if timed["status"] != OK:
            return Alone(variant=variant.name, latency=None, reason=str(timed.get("reason", "")))
        names = self._row("names", variant, case, self._names)
        kernels = tuple(Kernel.from_json(k) for k in names.get("timed_kernels", ()))
        given = self.recorded.of(case.op, case.params, case.dims)
        if given is not None:
            try:
                timed = self._on_given(variant, case, given)
            except Exception as error:  # noqa: BLE001 - becomes the op's reason
                return Alone(variant=variant.name, latency=None, reason=one_line(error))
        return Alone(variant=variant.name, latency=timed["timing"]["latency"], kernels=kernels)

    def compile(self, case: Case, chosen: str | None) -> Alone:
        """Run the case once where torch compiles its variant, so that its code is in torch's cache."""
        variant = self.variant(case, chosen)
        if isinstance(variant, Compiled) and case.case_id not in self._compiled:
            self._compiled.add(case.case_id)
            try:
                self._made(variant, case, 1)
            except Exception as error:  # noqa: BLE001 - the run that times it tells
                return Alone(variant=variant.name, latency=None, reason=one_line(error))
        return Alone(variant="", latency=None)

    def recover(self) -> None:
        """After a capture that was broken off: the random state takes part in captures, and stays in the broken one."""
        if self.bench.reasons_to_restart:
            self.bench.reasons_to_restart.clear()
            if self.bench.hardware.type == "cuda":
                place = torch.cuda.current_device()
                own = torch.cuda.default_generators[place]
                own.graphsafe_set_state(torch.Generator(f"cuda:{place}"))

    def _row(
        self, what: str, variant: Variant, case: Case, work: Callable[[Variant, Case], Json]
    ) -> Json:
        """The row that the log has, or the one that `work` makes."""
        key = (what, variant.name, case.case_id)
        if key not in self._known:
            row: Json = {
                "what": what, "variant": variant.name, "asked": variant.name, "case_id": case.case_id, "op": case.op,
                "params": dict(case.params), "dims": dict(case.dims), "status": OK,
            }  # fmt: skip
            try:
                row |= work(variant, case)
            except Exception as error:  # noqa: BLE001 - becomes the status of this row
                row |= {"status": "error", "reason": one_line(error)}
            self.recover()
            self.bench.release()
            row |= {"provenance": self._provenance["date"], "date": now()}
            self._known[key] = row
            if self._segment is not None:
                self._segment.append(row)
        return self._known[key]

    def _on_given(self, variant: Variant, case: Case, given: Inputs) -> Json:
        """The time on recorded inputs, over weights that rotate as ever."""
        try:
            return self._timed(variant, case, given)
        finally:
            self.recover()
            self.bench.release()

    def _made(self, variant: Variant, case: Case, sets: int, given: Inputs | None = None) -> Call:
        """The case, each set run once: compiled code may be made again for a set, which no capture survives."""
        call = variant.make(case.params, case.dims, self._worker.source, sets, given=given)
        for run in call.runs:
            run()
        return call

    def _timed(self, variant: Variant, case: Case, given: Inputs | None = None) -> Json:
        # recorded tokens may choose fewer experts than the bound counts
        floor = self._worker.floor(case) if given is None else 0.0
        limits = Limits(seconds=self._seconds, floor_ms=floor, graph=variant.capturable)
        found = steady(lambda sets: self._made(variant, case, sets, given), self.bench, limits)
        if reason := disagreement(found.spread, found.samples, self.bench):
            raise WrongResult(reason)
        return {"timing": found.to_json(), "floor_ms": floor}

    def _names(self, variant: Variant, case: Case) -> Json:
        """The kernels of one call, with their times in a replay."""
        call = self._made(variant, case, 1)
        replay = self.bench.bind(call.runs, CALLS, graph=variant.capturable)
        found = kernels_of(self.bench, replay, CALLS)
        return {
            "kernels": list(dict.fromkeys(k.name for k in found)),
            "timed_kernels": [k.to_json() for k in found],
        }

    @property
    def provenance(self) -> Json:
        """Device, driver and versions."""
        return self._provenance
