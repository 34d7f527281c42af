"""The ops of a sub-module on their own: each timed once per set of parameters and sizes, into the log of collect-ops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.align.kernels import Kernel, kernels_of
from collector.bench import Bench
from collector.log import ERROR, OK, Segment, latest, read_log
from collector.worker import Options, Task, Worker, now, one_line
from oplib.case import Case
from oplib.errors import InvalidInputError
from oplib.kernels.registry import resolve, slots
from oplib.kernels.variant import Variant

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
    """Times ops on the device at hand; what the log in `folder` has is not measured again."""

    def __init__(self, device: str, system: str, folder: Path | None, *, seconds: float) -> None:
        self._worker = Worker(Options(device=device, system=system, check=False, seconds=seconds))
        self._known: dict[tuple[str, str, str], Json] = {}
        self._compiled: set[str] = set()
        self._segment: Segment | None = None
        self._provenance = self._worker.provenance()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._known = latest(read_log(folder)[0])
            self._segment = Segment(folder)
            self._segment.append(self._provenance)

    @property
    def bench(self) -> Bench:
        """The device."""
        found: Bench = self._worker.bench
        return found

    @property
    def provenance(self) -> Json:
        """Device, driver and versions."""
        return self._provenance

    def variant(self, case: Case, chosen: str | None) -> Variant | str:
        """What runs this case, or why nothing does. A variant that was asked for and cannot is an error."""
        if case.op not in slots():
            return f"no kernel of {case.op} is known"
        try:
            return resolve(
                case.op, chosen, device=self.bench.hardware, params=case.params, dims=case.dims
            )
        except InvalidInputError as error:
            if chosen is not None:
                raise
            return f"{error.message} {error.hint}"

    def measure(self, case: Case, chosen: str | None) -> Alone:
        """The case on its own."""
        variant = self.variant(case, chosen)
        if isinstance(variant, str):
            return Alone(variant="", latency=None, reason=variant)
        timed = self._row(Task(case=case, variant=variant.name))
        if timed["status"] != OK:
            return Alone(
                variant=variant.name, latency=None, reason=str(timed.get("reason", timed["status"]))
            )
        names = self._row(Task(case=case, variant=variant.name, what="names"))
        kernels = tuple(Kernel.from_json(k) for k in names.get("timed_kernels", ()))
        return Alone(variant=variant.name, latency=timed["timing"]["latency"], kernels=kernels)

    def compile(self, case: Case, chosen: str | None) -> Alone:
        """Run the case once where torch compiles its variant, so that its code is in torch's cache."""
        variant = self.variant(case, chosen)
        if (
            isinstance(variant, Variant)
            and variant.written_out is not None
            and case.case_id not in self._compiled
        ):
            self._compiled.add(case.case_id)
            try:
                variant.make(case.params, case.dims, self._worker.source).runs[0]()
            except Exception as error:  # noqa: BLE001 - the run that times it tells
                return Alone(variant=variant.name, latency=None, reason=one_line(error))
        return Alone(variant="", latency=None)

    def _row(self, task: Task) -> Json:
        key = (task.what, task.variant, task.case.case_id)
        if key not in self._known or (task.what == "time" and self._known[key]["status"] == ERROR):
            row = self._names(task) if task.what == "names" else self._worker.answer(task).row
            row |= {"asked": task.variant, "provenance": self._provenance["date"]}
            self._known[key] = row
            if self._segment is not None:
                self._segment.append(row)
        return self._known[key]

    def _names(self, task: Task) -> Json:
        """The kernels of one call, with their times in a replay, which a row of names alone lacks."""
        case, bench = task.case, self.bench
        row: Json = {
            "what": "names", "variant": task.variant, "case_id": case.case_id, "op": case.op,
            "params": dict(case.params), "dims": dict(case.dims), "status": OK, "date": now(),
        }  # fmt: skip
        variant = slots()[case.op].variants[task.variant]
        try:
            call = variant.make(case.params, case.dims, self._worker.source)
            call.runs[0]()
            replay = bench.bind(call.runs, CALLS, graph=variant.capturable)
            found = kernels_of(bench, replay, CALLS)
        except Exception as error:  # noqa: BLE001 - becomes the status of this row
            return row | {"status": ERROR, "reason": one_line(error)}
        return row | {
            "kernels": list(dict.fromkeys(k.name for k in found)),
            "timed_kernels": [k.to_json() for k in found],
        }
