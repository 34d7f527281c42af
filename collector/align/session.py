"""One run of align-model: the model traced once, the device, the prices, and the log that a second run goes on from."""

from __future__ import annotations

import argparse
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from collector.align.aligning import (
    BACKEND,
    LOWERING,
    align,
    chosen_parts,
    distinct,
    parts_of,
    predicted,
)
from collector.align.alone import Standalone
from collector.align.outcome import Outcome
from collector.align.settings import Settings
from collector.align.workloads import Workload
from collector.log import OK, Segment, read_log
from collector.turn import Turn
from collector.worker import lacked_memory, now
from oplib.command_line import Progress
from oplib.errors import InvalidInputError
from oplib.kernels import registry
from oplib.kernels.hardware import hardware
from perfdb.database import PerfDatabase
from perfdb.systems import list_systems
from tracer.submodules import SubModule

if TYPE_CHECKING:
    from collector.align.whole import Whole

Json = dict[str, Any]  # Any: an object that becomes JSON
_SECONDS = {"cuda": 0.5, "cpu": 0.02}  # of samples of a row; a CPU's times are for tests
_ON_CPU = "h100_sxm"  # whose prices stand beside times of a CPU


class Session:
    """What `align-model` was asked for, and what stays while it runs."""

    def __init__(
        self,
        options: argparse.Namespace,
        variants: dict[str, str],
        progress: Progress,
        turn: Turn,
    ) -> None:
        self._options, self._progress = options, progress
        self._model = _name(options.model)
        for slot, name in variants.items():
            if name not in registry.slot(slot).variants:
                raise InvalidInputError(
                    f"{slot} has no variant {name!r}.",
                    f"Known: {', '.join(registry.slot(slot).variants)}.",
                )
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        device = "cuda:0" if device == "cuda" else device
        if device.startswith("cuda") and not torch.cuda.is_available() and not options.dry_run:
            raise InvalidInputError(
                f"--device is {device}, and torch sees no GPU.", "Give --device cpu."
            )
        self._device = device
        system = options.system or _system_of(device)
        self.db = PerfDatabase.load(
            system=system, backend=BACKEND, mode=options.mode, data=options.data
        )
        self._system = "" if device == "cpu" else system
        self._settings = Settings(
            model=self._model, device=device, variants=variants, seed=options.seed,
            seconds=options.seconds or _SECONDS[device.partition(":")[0]], time=not options.compile_only,
            debug=options.debug, one_graph=options.one_graph, turn=turn,
        )  # fmt: skip
        self._done = {
            key_of(row["result"]): row["result"]
            for row in _logged(options.out)
            if row["variants"] == dict(variants) and not _short_of_memory(row["result"])
        }
        self._segment: Segment | None = None

    @cached_property
    def chosen(self) -> list[SubModule]:
        """The parts that were asked for, each kind once."""
        self._progress(f"trace {self._model}")
        every = parts_of(self._options.model)
        found = distinct(chosen_parts(every, self._options.submodule))
        if not found:
            names = ", ".join(part.name for part in every)
            raise InvalidInputError(
                f"No sub-module is {' or '.join(self._options.submodule)}.",
                f"Roles, or one of: {names}.",
            )
        return found

    @cached_property
    def model(self) -> Whole:
        """The whole model, with as many layers as were asked for."""
        from collector.align.whole import Whole

        return Whole(
            self._options.model, self._options.layers, self._settings, self.db, self._progress
        )

    def prepare(self, pairs: list[tuple[str, Workload]]) -> None:
        """Trace the model and read the tables: what needs no device. A whole model is traced when it is first asked."""
        if self._options.whole:
            return
        for part in self.chosen:
            for phase, workload in pairs:
                predicted(part.ops(phase, LOWERING), workload, self.db)

    def parts(self, pairs: list[tuple[str, Workload]]) -> list[Json]:
        """The rows of the chosen parts at each workload."""
        todo = [(part, phase, workload) for part in self.chosen for phase, workload in pairs]
        if self._options.dry_run:
            return [self._planned(*one) for one in todo]
        with self._settings.turn:
            standalone = Standalone(
                self._device, self._system, self._options.out, seconds=self._settings.seconds / 2,
                sharers=self._settings.turn.sharers,
            )  # fmt: skip
        rows = []
        for number, (part, phase, workload) in enumerate(todo, 1):
            self._progress(f"{number}/{len(todo)} {part.name} {phase} {workload}")
            asked = {
                "system": self.db.system.id,
                "model": self._model,
                "submodule": part.name,
                "phase": phase,
                "workload": str(workload),
            }
            known = self._done.get(key_of(asked))
            if known is None:
                start = time.monotonic()
                outcome = align(part, phase, workload, self._settings, standalone, self.db)
                known = self._placed(outcome.to_json())
                known["seconds"] = round(time.monotonic() - start, 2)
                self._keep(known)
            rows.append(known)
        return rows

    def whole(self, pairs: list[tuple[str, Workload]]) -> list[Json]:
        """The rows of the whole model."""
        rows = []
        for phase, workload in pairs:
            planned = self._placed(self.model.planned(phase, workload))
            known = planned if self._options.dry_run else self._done.get(key_of(planned))
            if known is None:
                self._progress(f"{phase} {workload}")
                known = self._placed(self.model.measured(phase, workload))
                self._keep(known)
            rows.append(known)
        return rows

    def _planned(self, part: SubModule, phase: str, workload: Workload) -> Json:
        ops = part.ops(phase, LOWERING)
        found = Outcome(
            model=self._model, submodule=part.name, role=part.role, phase=phase, workload=str(workload), ops=(),
            predicted=predicted(ops, workload, self.db),
        )  # fmt: skip
        return self._placed(found.to_json())

    def _placed(self, row: Json) -> Json:
        """The row with the system that it is priced for, which is the device's own where it was measured."""
        return {"system": self.db.system.id, **row}

    def _keep(self, row: Json) -> None:
        """A row in the log once it is there; what failed is tried again by a second run."""
        timed = not (self._options.compile_only or self._options.dry_run or row["failed"])
        if self._options.out is None or not timed:
            return
        if self._segment is None:
            self._segment = Segment(self._options.out)
        fields = {
            "what": "align",
            "status": OK,
            "date": now(),
            "variants": dict(self._settings.variants),
        }
        self._segment.append({**fields, "result": row})


def _logged(folder: Path | None) -> list[Json]:
    if folder is None or not folder.exists():
        return []
    return [row for row in read_log(folder)[0] if row["what"] == "align"]


def _short_of_memory(result: Json) -> bool:
    """Whether an op of the row found no memory, beside other models it may be."""
    return any(lacked_memory(op.get("reason", "")) for op in result["ops"])


def key_of(result: Json) -> tuple[Any, ...]:  # Any: names, a depth, a flag
    """What a row is of, of a whole model also how deep and how compiled: rows with the same key are of one thing."""
    names = ("system", "model", "submodule", "phase", "workload", "layers", "one_graph")
    return tuple(result.get(name) for name in names)


def _name(path: str) -> str:
    """What the rows call the model: the folder of a config, or the path as it is."""
    found = Path(path)
    if found.name == "config.json":
        found = found.parent
    return found.resolve().name if found.exists() else path


def _system_of(device: str) -> str:
    """The system that the device is one of, by its name."""
    if device == "cpu" or not torch.cuda.is_available():
        return _ON_CPU
    name = hardware(device).name.lower()
    found = [system for system in list_systems() if system.partition("_")[0] in name.split()]
    if len(found) != 1:
        raise InvalidInputError(
            f"No GPU that is known is called {name!r}.",
            f"Name one with --system: {', '.join(list_systems())}.",
        )
    return found[0]
