"""A bench that lets the device rest between samples.

A GPU that works at its power limit lowers its clock within tens of milliseconds, by an amount that depends on what ran
before. An op alone and the same op inside a layer then run at clocks that differ, and their times do not add up. With
pauses of a few times a sample's length both run at full clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from collector.bench import Bench, Replay, Run
from collector.nvml import Meter
from oplib.kernels.hardware import Hardware

_PAUSES = 3.0  # how much longer than a sample
_LONGEST = 0.06  # seconds
_WORTH_MS = 0.5  # of a sample, below which none rests: no such burst reaches a power limit


class RestedBench:
    """Another bench, with pauses between its samples."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.hardware: Hardware = bench.hardware
        self.meter: Meter = bench.meter
        self.overhead_ms: float = bench.overhead_ms
        self.reasons_to_restart: list[str] = bench.reasons_to_restart

    def once_ms(self, run: Run) -> float:
        return self._bench.once_ms(run)

    def bind(self, runs: Sequence[Run], calls: int, *, graph: bool) -> Replay:
        return self._bench.bind(runs, calls, graph=graph)

    def sample(
        self, replay: Replay, count: int, *, flush: bool, meanwhile: Callable[[], None]
    ) -> list[float]:  # fmt: skip
        """A device that rested waits for the host: a sample would begin with its launch, so one goes ahead of it."""
        first = self._bench.sample(replay, 1, flush=flush, meanwhile=meanwhile)[0]
        if first < _WORTH_MS:
            return self._bench.sample(replay, count, flush=flush, meanwhile=meanwhile)
        found: list[float] = []
        while len(found) < count:
            time.sleep(min(_PAUSES * first / 1e3, _LONGEST))
            found += self._bench.sample(replay, 2, flush=flush, meanwhile=meanwhile)[1:]
        return found

    def synchronize(self) -> None:
        self._bench.synchronize()

    def release(self) -> None:
        self._bench.release()
