"""Times at rest, with pauses between samples, and under load.

A GPU that works at its power limit lowers its clock within tens of milliseconds, by an amount that depends on what ran
before. An op alone and the same op inside a layer then run at clocks that differ, and their times do not add up. With
pauses of a few times a visit's length both run at full clock. A server runs under load, and so do the tables.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from collector.bench import Bench, Clock, Replay, Run, Times
from collector.nvml import Meter
from collector.timing import Limits, Timing, benchmark_with_power
from oplib.kernels.hardware import Hardware
from oplib.kernels.variant import Call

_PAUSES = 3.0  # how much longer than the work before
_LONGEST = 0.06  # seconds
_WORTH_MS = 0.5  # of work, below which none rests: no such burst reaches a power limit
_LOAD = 0.3  # seconds of work after which the clock is the one of this load
UNSTEADY = 0.05  # middle half of the samples over their median: something else was running
_TRIES = 4


class RestedBench(Bench):
    """Another bench, with pauses before its samples; `busy` is that bench itself."""

    def __init__(self, bench: Bench) -> None:
        self.busy = bench
        self._worked_ms = 0.0
        self.hardware: Hardware = bench.hardware
        self.meter: Meter = bench.meter
        self.overhead_ms: float = bench.overhead_ms
        self.reasons_to_restart: list[str] = bench.reasons_to_restart

    def once_ms(self, run: Run) -> float:
        return self.busy.once_ms(run)

    def bind(self, runs: Sequence[Run], calls: int, *, graph: bool) -> Replay:
        return self.busy.bind(runs, calls, graph=graph)

    def start(self, replay: Replay, count: int, *, flush: bool) -> Times:
        """A device that rested waits for the host: a sample would begin with its launch, so one goes ahead of them."""
        if self._worked_ms >= _WORTH_MS:
            time.sleep(min(_PAUSES * self._worked_ms / 1e3, _LONGEST))
        started = self.busy.start(replay, 1 + count, flush=flush)

        def times() -> list[float]:
            found = started()
            self._worked_ms = sum(found)
            return found[1:]

        return times

    def clock(self) -> Clock:
        return self.busy.clock()

    def synchronize(self) -> None:
        self.busy.synchronize()

    def release(self) -> None:
        self.busy.release()


def steady(make: Callable[[int], Call], bench: Bench, limits: Limits) -> Timing:
    """The steadiest of a few timings of a call, the first one that is steady where there is one."""
    found: list[Timing] = []
    while len(found) < _TRIES:
        found.append(benchmark_with_power(make, bench, limits))
        if found[-1].spread <= UNSTEADY:
            break
    return min(found, key=lambda timing: timing.spread)


def under_load(make: Callable[[int], Call], bench: RestedBench, limits: Limits) -> Timing:
    """A call timed without pauses, after it has run for a while, whatever ran before: that had another clock."""
    bench.busy.loaded_at = -math.inf
    return steady(make, bench.busy, replace(limits, load_seconds=_LOAD))
