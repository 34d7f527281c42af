"""The turn that processes take on a device that they share: one of them uses it, the others compile."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


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
    does not get it before another that waits.
    """

    def __init__(self, path: Path, sharers: int) -> None:
        self._path, self.sharers = path, sharers
        self._line = path.with_name(path.name + ".line")
        self._file: Any = None  # an open file
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            with _locked(self._line):
                self._file = _locked(self._path)
        self._depth += 1

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1
        if not self._depth:
            try:
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()
            finally:
                self._file.close()

    @contextmanager
    def let_go(self) -> Iterator[None]:
        depth, self._depth = self._depth, min(self._depth, 1)
        if depth:
            self.__exit__()
        try:
            yield
        finally:
            if depth:
                self.__enter__()
                self._depth = depth


def _locked(path: Path) -> Any:  # Any: an open file
    file = path.open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def compile_without(turn: Turn) -> None:
    """From now on torch compiles in this process without the turn, which is had again once it has compiled."""
    from torch._dynamo import callback  # private: there is no other word of when torch compiles

    paused = []

    @callback.on_compile_start
    def start(_: Any) -> None:  # Any: what torch says of the compilation
        paused.append(turn.let_go())
        paused[-1].__enter__()

    @callback.on_compile_end
    def end(_: Any) -> None:
        paused.pop().__exit__(None, None, None)
