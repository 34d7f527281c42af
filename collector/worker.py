"""The process that measures on one device: it gets tasks through a pipe and answers each with the fields of a row."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeAlias

from collector.log import ERROR, OK, OOM, SKIPPED, WRONG
from oplib.case import Case
from oplib.errors import InvalidInputError
from oplib.params import Params

Json: TypeAlias = dict[str, Any]  # Any: an object that becomes JSON
What: TypeAlias = Literal["time", "power", "check", "names"]

_PACKAGES = (
    "torch",
    "triton",
    "flash-linear-attention",
    "flashinfer-python",
    "nvidia-cudnn-cu13",
    "nvidia-cublas",
    "nvidia-nccl-cu13",
)
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_EXAMPLES = 3  # of the slot's, that a variant is checked on before its first row
_REASON = 300  # characters of an error that a row keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a worker measures. `system` names the GPU's facts for the speed of light, empty where there is none;
    `checked` are the variants that need no further check; `plugins` are packages of more variants."""

    device: str = "cpu"
    system: str = ""
    seed: int = 0
    seconds: float = 1.0
    power_seconds: float = 1.5
    check: bool = True
    checked: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    memory_share: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row to make: a case, which variant, and what to do with it."""

    case: Case
    variant: str
    what: What = "time"
    graph: bool = True


@dataclass(slots=True, kw_only=True)
class Answer:
    """The fields that a worker adds to a row; `restart` asks for a fresh process, `hello` comes before any case."""

    row: Json = field(default_factory=dict)
    restart: bool = False
    hello: bool = False


def serve(connection: Connection, options: Options) -> None:
    """Answer tasks until the pipe closes. The process ends with its parent, also where that was killed."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    worker = Worker(options)
    connection.send(Answer(row=worker.provenance(), hello=True))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            return
        answer = worker.answer(task)
        connection.send(answer)
        if answer.restart:
            return


class Worker:
    """One device, and what stays from case to case on it."""

    def __init__(self, options: Options) -> None:
        import torch

        from collector.bench import bench_of
        from collector.timing import idle_watts
        from oplib.kernels import registry
        from oplib.kernels.source import PoolSource

        self._torch: Any = torch  # Any: the module, loaded in the worker alone
        torch.set_grad_enabled(False)
        if options.device == "cpu":
            torch.set_num_threads(1)  # threads that wait for each other measure the scheduler
        self.options = options
        for plugin in options.plugins:
            registry.extend(plugin)
        self._registry = registry
        self.bench = bench_of(options.device)
        memory = self.bench.hardware.memory
        limit = int(options.memory_share * memory) if memory else 1 << 31
        start = 1 << 30 if memory else 1 << 22
        self.source = PoolSource(options.device, options.seed, start=start, limit=limit)
        self._checked: dict[str, str] = dict.fromkeys(options.checked, "")
        self._unchecked: dict[str, str] = {}
        self._idle: float | None = None
        self._idle_watts = idle_watts

    def provenance(self) -> Json:
        """What every row of this process shares."""
        torch = self._torch
        return {
            "what": "provenance",
            "device": self.bench.hardware.name,
            "capability": self.bench.hardware.capability,
            "driver": self.bench.meter.driver,
            "cuda": torch.version.cuda,
            "versions": dict(_versions()),
            "python": platform.python_version(),
            "host": socket.gethostname(),
            "command": sys.argv,
            "l2_bytes": self.bench.hardware.l2_bytes,
            "graph_overhead_ms": self.bench.overhead_ms,
            "date": now(),
        }

    def answer(self, task: Task) -> Answer:
        """The row of a task; every failure is a status."""
        torch = self._torch
        row: Json = {
            "what": task.what,
            "variant": task.variant,
            "case_id": task.case.case_id,
            "op": task.case.op,
            "params": dict(task.case.params),
            "dims": dict(task.case.dims),
        }
        restart = False
        try:
            row |= self._result(task, row)
        except InvalidInputError as error:
            row |= {"status": SKIPPED, "reason": error.message[:_REASON]}
        except (MemoryError, torch.OutOfMemoryError) as error:
            row |= {"status": OOM, "reason": one_line(error)}
            self._empty()
        except Exception as error:  # noqa: BLE001 - becomes the status of this case
            wrong = type(error).__name__ == "WrongResult"
            row |= {"status": WRONG if wrong else ERROR, "reason": one_line(error)}
            restart = not self._healthy()
        if self.bench.reasons_to_restart:
            row.setdefault("note", self.bench.reasons_to_restart[-1])
            restart = True
        if not restart:
            self.bench.release()
        row["date"] = now()
        return Answer(row=row, restart=restart)

    def _result(self, task: Task, row: Json) -> Json:
        case = task.case
        variant = self._registry.resolve(
            case.op, task.variant or None, device=self.bench.hardware,
            params=case.params, dims=case.dims,
        )  # fmt: skip
        row["variant"] = variant.name
        if task.what == "check":
            return self._check(variant, case)
        if self.options.check and (fault := self._fault(variant)):
            return {"status": WRONG, "reason": fault[:_REASON]}
        if note := self._unchecked.get(str(variant)):
            row["note"] = note
        if task.what == "names":
            return {"status": OK, "kernels": self._kernels(variant, case)}
        return {"status": OK, **self._timed(variant, task)}

    def _timed(self, variant: Any, task: Task) -> Json:  # Any: a Variant, whose module loads torch
        from collector.timing import Limits, benchmark_with_power

        case = task.case
        power = self.options.power_seconds if task.what == "power" else 0.0
        if power and self._idle is None:
            self.bench.synchronize()
            self._idle = self._idle_watts(self.bench)
        limits = Limits(
            seconds=self.options.seconds,
            floor_ms=self._floor(case),
            graph=task.graph and variant.capturable,
            power_seconds=power,
            idle_watts=self._idle or 0.0,
        )
        found = benchmark_with_power(
            lambda sets: variant.make(case.params, case.dims, self.source, sets), self.bench, limits
        )
        return {"timing": found.to_json(), "floor_ms": limits.floor_ms}

    def _floor(self, case: Case) -> float:
        """Milliseconds that no kernel can beat: work at peak, and the bytes that the cache cannot hold at bandwidth.

        A small op may find what was just written in the cache and leave its own outputs there.
        """
        if not self.options.system:
            return 0.0
        from perfdb.speed_of_light import sides_ms
        from perfdb.systems import load_system

        system = load_system(self.options.system)
        sides = [float(side) for side in sides_ms(case.kind, case.params, case.dims, system)]
        moved = float(case.kind.bytes(case.params, case.dims))
        beyond = max(moved - 2 * system.l2_capacity.base, 0.0) / moved if moved else 0.0
        return max(sides[0], sides[1] * beyond, *sides[2:])

    def _check(self, variant: Any, case: Case) -> Json:  # Any: a Variant
        from oplib.kernels.check import check

        found = check(
            variant, case.params, case.dims, device=self.options.device, seed=self.options.seed
        )
        status, reason = (OK, "") if found.ok else (WRONG, str(found))
        return {
            "status": status,
            "reason": reason,
            "error": _finite(found.error),
            "worst": _finite(found.worst),
        }

    def _fault(self, variant: Any) -> str:  # Any: a Variant
        """Why the outputs of a variant are not to be trusted, by a few examples of its slot; empty where they are."""

        name = str(variant)
        if name not in self._checked:
            self._checked[name] = self._judged(variant)
        return self._checked[name]

    def _judged(self, variant: Any) -> str:  # Any: a Variant
        """An example that the device refuses says nothing of the others; where it refuses all, the rows say so."""
        from oplib.kernels.check import check

        right, refused = 0, ""
        for params, dims in self._examples(variant):
            try:
                found = check(
                    variant, params, dims, device=self.options.device, seed=self.options.seed
                )
            except RuntimeError as error:
                if not self._healthy():
                    raise
                refused = one_line(error)
                continue
            if not found.ok:
                return f"wrong on {dims}: {found}"
            right += 1
        if refused and not right:
            self._unchecked[str(variant)] = f"unchecked, no example ran: {refused}"
        return ""

    def _examples(self, variant: Any) -> list[tuple[Params, Mapping[str, int]]]:  # Any: a Variant
        able = [
            (params, dims)
            for params, dims in self._registry.slot(variant.slot).examples
            if variant.why_not(self.bench.hardware, params, dims) is None
        ]
        return able[:_EXAMPLES]

    def _kernels(self, variant: Any, case: Case) -> list[str]:  # Any: a Variant
        """Names of what runs on the device in one call, in order of first appearance; on a CPU those of operators."""
        from torch.profiler import ProfilerActivity, profile

        run = variant.make(case.params, case.dims, self.source).runs[0]
        run()
        self.bench.synchronize()
        gpu = self.bench.hardware.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
            run()
            self.bench.synchronize()
        return list(dict.fromkeys(event.name for event in found.events()))

    def _healthy(self) -> bool:
        """Whether the device still answers: after an illegal access nothing in this process does."""
        try:
            self.bench.synchronize()
        except RuntimeError:
            return False
        return True

    def _empty(self) -> None:
        if self.bench.hardware.type == "cuda":
            self._torch.cuda.empty_cache()


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value and abs(value) != float("inf") else None


def now() -> str:
    """The time as ISO 8601, in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def one_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())[:_REASON]
    return f"{type(error).__name__}: {text}{place}"


def die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
