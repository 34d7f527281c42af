"""The turn that processes take on a device that they share: one of them uses it, the others compile."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Turn:
    """Held while the device works. Nobody waits for this one: no other process is there."""

    sharers: int = 1  # processes that take turns, each of which has its part of the device's memory

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_error: object) -> None:
        return None

    @contextmanager
    def let_go(self) -> Iterator[None]:
        """What is held is free meanwhile, and had again afterwards."""
        yield


class FileTurn(Turn):
    """Held by one process at a time, by a lock of a file: the kernel takes it back from a process that dies.

    A process that has it may take it again. Who wants it stands in line, by a second file: who has just let go of it
    does not get it before another that waits. `told` hears True before the process waits, and False once it has it.
    """

    def __init__(
        self, path: Path, sharers: int, told: Callable[[bool], object] = lambda _: None
    ) -> None:
        self._path, self.sharers, self._told = path, sharers, told
        self._line = path.with_name(path.name + ".line")
        self._file: Any = None  # an open file
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            self._told(True)
            with _locked(self._line):
                self._file = _locked(self._path)
            self._told(False)
        self._depth += 1

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1
        if not self._depth:
            _finish()
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a child may hold the file open
            self._file.close()

    @contextmanager
    def let_go(self) -> Iterator[None]:
        depth, self._depth = self._depth, min(self._depth, 1)
        try:
            if depth:
                self.__exit__()
            yield
        finally:
            if depth:
                self.__enter__()
                self._depth = depth


def _locked(path: Path) -> Any:  # Any: an open file
    file = path.open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _finish() -> None:
    """Wait for the device, where this process uses one. A fault of it is told by the case that made it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):
            torch.cuda.synchronize()


@contextmanager
def compiling_without(turn: Turn) -> Iterator[None]:
    """Inside, torch compiles without the turn, which is had again once it has compiled.

    What inductor tries on the device while it compiles runs without it too. `torch._dynamo.reset` ends this early.
    """
    from torch._dynamo import callback  # private: there is no other word of when torch compiles

    handler, paused = callback.callback_handler, []

    def start(_: Any) -> None:  # Any: what torch says of the compilation
        paused.append(turn.let_go())
        paused[-1].__enter__()

    def end(_: Any) -> None:  # Any: as above
        paused.pop().__exit__(None, None, None)

    handler.register_start_callback(start)
    handler.register_end_callback(end)
    try:
        yield
    finally:
        for kept, one in ((handler.start_callbacks, start), (handler.end_callbacks, end)):
            if one in kept:
                kept.remove(one)
