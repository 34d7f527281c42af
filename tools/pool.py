"""Work in processes that can be killed: one item at a time each, a limit of seconds per item, a limit of memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

GB = 10**9


@dataclass(frozen=True, slots=True)
class Lost:
    """An item without a result, and why."""

    reason: str


@dataclass(slots=True)
class _Worker:
    process: Any  # a Process of whichever context made it
    pipe: Connection
    item: Any = None  # what the caller handed in
    since: float = 0.0


def results(
    work: Callable[[Any], Any], items: Iterable[Any], *, jobs: int, seconds: float, memory_gb: float
) -> Iterator[tuple[Any, Any]]:
    """(item, its result or a Lost) in order of completion; `work` must be importable by a fresh interpreter.

    A process that is late is killed, one whose peak memory passed half the limit is replaced after its item.
    """
    waiting, workers = list(reversed(list(items))), list[_Worker]()
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_start(work, memory_gb))
                _give(workers[-1], waiting)
            wait([w.pipe for w in workers], timeout=0.2)
            for worker in list(workers):
                done, result, reusable = _look(worker, seconds, memory_gb)
                if not done:
                    continue
                item = worker.item
                if reusable and waiting:
                    _give(worker, waiting)
                else:
                    _end(worker)
                    workers.remove(worker)
                yield item, result
    finally:
        for worker in workers:
            _end(worker)


def _start(work: Callable[[Any], Any], memory_gb: float) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs, memory_gb), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Any]) -> None:
    worker.item, worker.since = waiting.pop(), time.monotonic()
    with suppress(OSError):  # a process that died is found when it is looked at
        worker.pipe.send(worker.item)


def _look(worker: _Worker, seconds: float, memory_gb: float) -> tuple[bool, Any, bool]:
    """Whether the item is over, with what result, and whether the process can take another."""
    try:
        if worker.pipe.poll():
            result, peak_gb = worker.pipe.recv()
            return True, result, peak_gb < memory_gb / 2
    except (EOFError, OSError):
        worker.process.join(timeout=5)
        return True, Lost(f"its process ended with status {worker.process.exitcode}"), False
    if time.monotonic() - worker.since > seconds:
        return True, Lost(f"no result after {seconds:g} s"), False
    return False, None, True


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _serve(work: Callable[[Any], Any], pipe: Connection, memory_gb: float) -> None:
    _limit_memory(memory_gb)
    with suppress(EOFError, OSError, KeyboardInterrupt):  # the caller is gone
        while True:
            item = pipe.recv()
            try:
                result = work(item)
            except MemoryError:
                result = Lost(f"it needs more than {memory_gb:g} GB")
            pipe.send((result, peak_gb()))


def _limit_memory(memory_gb: float) -> None:
    """Let an allocation beyond the limit fail, where the system knows such a limit."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        limit = int(memory_gb * GB)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def peak_gb() -> float:
    """The most memory that this process had in use; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB
