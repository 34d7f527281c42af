"""The process that measures on one device: it gets tasks through a pipe and answers each with the fields of a row."""

from __future__ import annotations

import ctypes
import importlib.metadata
import math
import multiprocessing
import os
import platform
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeAlias

from collector.grids import LOAD_MS
from collector.log import ERROR, OK, OOM, SKIPPED, WRONG
from collector.turn import FileTurn, Turn, compiling_without
from oplib.case import Case
from oplib.errors import InvalidInputError

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
_MOST_OF_PART = 0.9  # of a shared device's part for this process, that inputs may take
_POOL_SHARE = 0.1  # of the device's memory, that inputs get at first: more than a window needs
_LOAD_SECONDS = 0.15  # of load before the samples of a case that draws the most power
_NO_MEMORY = (
    "OutOfMemoryError",
    "MemoryAllocation",
    "ALLOC_FAILED",
)  # in words of torch, CUDA and cuBLAS
_REASON = 300  # characters of an error that a row keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a worker measures. `system` names the GPU's facts for the speed of light, empty where there is none;
    `checked` are the variants that need no further check; `plugins` are packages of more variants; `sharers` are the
    processes among which the device's memory is shared, this one included, and `turn` is the file by which they take
    turns."""

    device: str = "cpu"
    system: str = ""
    seed: int = 0
    seconds: float = 1.0
    power_seconds: float = 1.5
    check: bool = True
    checked: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    memory_share: float = 0.3
    sharers: int = 1
    turn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row to make: a case, which variant, and what to do with it. `share` is the part of a window that it fills;
    1 has one to itself."""

    case: Case
    variant: str
    what: What = "time"
    graph: bool = True
    share: float = 0.0


Phase: TypeAlias = Literal["hello", "waiting", "had", "preparing", "sampling", "alone", "row"]


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a worker says, of the task at `place` of its window.

    `hello` comes before any window, `waiting` and `had` around each wait for the turn, `preparing` before each task
    with the seconds that its variant may take to build what it runs, `sampling` before the samples of all that are
    ready, `row` with the fields of a finished one, `alone` of one that did not fit beside the others, or whose samples
    beside them disagree; `restart` asks for a fresh process.
    """

    phase: Phase = "row"
    place: int = 0
    row: Json = field(default_factory=dict)
    build_seconds: float = 0.0
    restart: bool = False


def serve(connection: Connection, options: Options) -> None:
    """Answer windows of tasks until the pipe closes. The process ends with its parent, also where that was killed."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    worker = Worker(
        options, lambda waits: connection.send(Answer(phase="waiting" if waits else "had"))
    )
    connection.send(Answer(phase="hello", row=worker.provenance()))
    with ExitStack() as stack:
        if options.turn:
            stack.enter_context(compiling_without(worker.turn))
        while True:
            try:
                window = connection.recv()
            except EOFError:
                return
            for answer in worker.answers(window):
                connection.send(answer)
                if answer.restart:
                    return


class Worker:
    """One device, and what stays from case to case on it. `told` hears when it waits for its turn (`FileTurn`)."""

    def __init__(self, options: Options, told: Callable[[bool], object] = lambda _: None) -> None:
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
        self.turn = Turn()
        if options.turn:
            from torch._inductor import config

            config.compile_threads = 1  # the processes are the threads
            self.turn = FileTurn(Path(options.turn), options.sharers, told)
        with self.turn:
            self.bench = bench_of(options.device, options.sharers)
        memory = self.bench.hardware.memory
        share = min(options.memory_share * options.sharers, _MOST_OF_PART)
        limit = int(share * memory) if memory else 1 << 31
        start = int(_POOL_SHARE * memory) if memory else 1 << 22
        self.source = PoolSource(options.device, options.seed, start=start, limit=limit)
        self._checked: dict[str, str] = dict.fromkeys(options.checked, "")
        self._unchecked: dict[str, str] = {}
        self._loaded_op = ""
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
        """What becomes of one task by itself."""
        return [one for one in self.answers([task]) if one.phase == "row"][-1]

    def answers(self, window: Sequence[Task]) -> Iterator[Answer]:
        """What becomes of the tasks of a window; every failure is a status."""
        left: dict[int, Any] = {}  # Any: a Ready and fields of its row, by place
        for place, task in enumerate(window):
            yield Answer(phase="preparing", place=place, build_seconds=self._build_seconds(task))
            with self.turn:
                made = self._made(task, beside=len(left))
            if isinstance(made, Answer):
                yield replace(made, place=place)
                if made.restart:
                    return
            else:
                left[place] = made
        with self.turn:
            if left:
                yield Answer(phase="sampling")
                yield from self._answers_sampled(window, left)
            left.clear()
            self.bench.release()

    def _answers_sampled(
        self, window: Sequence[Task], left: dict[int, Any]
    ) -> Iterator[Answer]:  # Any: a Ready and fields of its row, by place
        """The answers to the tasks that are ready, as soon as each is final."""
        from collector.timing import sample_window

        places = list(left)
        try:
            for i, found in sample_window([left[place][0] for place in places], self.bench):
                _, row = left.pop(places[i])
                task = window[places[i]]
                fields = self._sampled(task, found)
                if fields["status"] == ERROR and len(window) > 1 and task.share < 1.0:
                    yield Answer(phase="alone", place=places[i])
                else:
                    yield Answer(place=places[i], row={**row, **fields, "date": now()})
        except Exception as error:  # noqa: BLE001 - becomes the status of the case, which is found alone
            yield from self._broken({place: window[place] for place in left}, error)

    def _made(
        self, task: Task, *, beside: int
    ) -> Any:  # Any: an Answer, or a Ready and fields of its row
        """The answer to a task, or, where it is to be sampled, its case bound to the device and fields of its row."""
        torch = self._torch
        row = _head(task)
        restart = False
        try:
            found = self._result(task, row)
            if not isinstance(found, dict):
                if not self.bench.reasons_to_restart:
                    return found, row
                found = self._at_once(task, found)
            row |= found
        except InvalidInputError as error:
            row |= {"status": SKIPPED, "reason": error.message[:_REASON]}
        except (MemoryError, torch.OutOfMemoryError) as error:
            self._empty()
            if beside:
                return Answer(phase="alone")
            row |= {"status": OOM, "reason": one_line(error), "sharers": self.turn.sharers}
        except Exception as error:  # noqa: BLE001 - becomes the status of this case
            wrong = type(error).__name__ == "WrongResult"
            row |= {"status": WRONG if wrong else ERROR, "reason": one_line(error)}
            restart = not self._healthy()
        if self.bench.reasons_to_restart:
            row.setdefault("note", self.bench.reasons_to_restart[-1])
            restart = True
        return Answer(row={**row, "date": now()}, restart=restart)

    def _at_once(self, task: Task, ready: Any) -> Json:  # Any: a Ready
        """The fields of a case whose capture was broken off: the process is not trusted with another."""
        from collector.timing import sample_window

        _, found = next(sample_window([ready], self.bench))
        if isinstance(found, Exception):
            raise found
        return self._sampled(task, found)

    def _sampled(self, task: Task, found: Any) -> Json:  # Any: a Timing or WrongResult
        """The fields of a case that has its samples."""
        from collector.timing import disagreement

        if isinstance(found, Exception):
            return {"status": WRONG, "reason": one_line(found)}
        if reason := disagreement(found.spread, found.samples, self.bench):
            return {"status": ERROR, "reason": reason}
        return {"status": OK, "timing": found.to_json(), "floor_ms": self.floor(task.case)}

    def _broken(self, tasks: Mapping[int, Task], error: Exception) -> Iterator[Answer]:
        """Sampling failed: a case that was alone gets the status, of several each is tried alone in a fresh process."""
        if len(tasks) == 1:
            for place, task in tasks.items():
                row = {**_head(task), "status": ERROR, "reason": one_line(error), "date": now()}
                yield Answer(place=place, row=row, restart=not self._healthy())
            return
        for place in tasks:
            yield Answer(phase="alone", place=place)
        yield Answer(phase="sampling", restart=True)

    def _variant(self, task: Task) -> Any:  # Any: a Variant
        case = task.case
        return self._registry.resolve(
            case.op, task.variant or None, device=self.bench.hardware,
            params=case.params, dims=case.dims,
        )  # fmt: skip

    def _build_seconds(self, task: Task) -> float:
        with suppress(Exception):  # which becomes the status of the case
            return float(self._variant(task).build_seconds)
        return 0.0

    def _result(self, task: Task, row: Json) -> Any:  # Any: fields of the row, or a Ready
        case, variant = task.case, self._variant(task)
        row["variant"] = variant.name
        if task.what == "check":
            return self._check(variant, case)
        if self.options.check and (fault := self._fault(variant)):
            return {"status": WRONG, "reason": fault[:_REASON]}
        if note := self._unchecked.get(str(variant)):
            row["note"] = note
        if task.what == "names":
            return {"status": OK, "kernels": self._kernels(variant, case)}
        return self._timed(variant, task)

    def _timed(
        self, variant: Any, task: Task
    ) -> Any:  # Any: a Variant; a Ready, or the fields where power is asked
        from collector.timing import Limits, benchmark_with_power, prepare

        case = task.case
        if case.op != self._loaded_op:  # another kind draws another power
            self._loaded_op, self.bench.loaded_at = case.op, -math.inf
        power = self.options.power_seconds if task.what == "power" else 0.0
        if power and self._idle is None:
            self.bench.synchronize()
            self._idle = self._idle_watts(self.bench)
        limits = Limits(
            seconds=self.options.seconds,
            floor_ms=self.floor(case),
            load_seconds=_LOAD_SECONDS if self._sides(case)[0] >= LOAD_MS else 0.0,
            graph=task.graph and variant.capturable,
            power_seconds=power,
            idle_watts=self._idle or 0.0,
        )

        def make(sets: int) -> Any:  # Any: a Call
            return variant.make(case.params, case.dims, self.source, sets)

        if not power:
            return prepare(make, self.bench, limits)
        return self._sampled(task, benchmark_with_power(make, self.bench, limits))

    def floor(self, case: Case) -> float:
        """Milliseconds that no kernel can beat: work at peak, and the bytes that the cache cannot hold at bandwidth.

        A small op may find what was just written in the cache and leave its own outputs there.
        """
        return max(self._sides(case))

    def _sides(self, case: Case) -> list[float]:
        """The bounds of a case in ms, that of its work first; zeros where the device is not known."""
        if not self.options.system:
            return [0.0]
        from perfdb.speed_of_light import sides_ms
        from perfdb.systems import load_system

        system = load_system(self.options.system)
        work, moving, *rest = map(float, sides_ms(case.kind, case.params, case.dims, system))
        moved = float(case.kind.bytes(case.params, case.dims))
        beyond = max(moved - 2 * system.l2_capacity.base, 0.0) / moved if moved else 0.0
        return [work, moving * beyond, *rest]

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
        for params, dims in self._registry.examples(variant, self.bench.hardware):
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

    def _kernels(self, variant: Any, case: Case) -> list[str]:  # Any: a Variant
        """Names of what runs on the device in one call, in order of first appearance; on a CPU those of operators."""
        from collector.bench import profiler

        run = variant.make(case.params, case.dims, self.source).runs[0]
        run()
        self.bench.synchronize()
        with profiler(self.bench.hardware) as found:
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


def _head(task: Task) -> Json:
    """The fields that say what a row is of."""
    return {
        "what": task.what,
        "variant": task.variant,
        "case_id": task.case.case_id,
        "op": task.case.op,
        "params": dict(task.case.params),
        "dims": dict(task.case.dims),
    }


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


def lacked_memory(reason: str) -> bool:
    """Whether an error is for want of the device's memory."""
    return any(name in reason for name in _NO_MEMORY)


def die_with_parent() -> None:
    """End with the parent, also where it is killed, and also where it was before this was asked for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)
