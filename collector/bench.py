"""Bench: how calls are run and timed on a device, a GPU with graphs or the CPU, behind one face."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import torch

from collector.nvml import Meter, NoMeter, meter_of
from oplib.kernels.hardware import Hardware, hardware
from oplib.kernels.variant import Outputs

Run = Callable[[], Outputs]
Times = Callable[[], list[float]]
Clock = Callable[[], int]
_SPINS = (100_000, 1_000_000)  # cycles of the two spins that a clock is read from
_AHEAD = 400_000  # cycles of the spin behind which they are queued: no mark waits for the host
_OVER = 1.01  # of the highest clock: more is no clock, something came between two marks
_L2_TIMES = 2  # how much more than the cache is read to empty it, and how much weights rotate over
_RENEW_SHARE = (
    0.5  # of the device's memory that captured graphs may hold before their pool is let go
)


class Replay(Protocol):
    """Calls bound together, to be run again and again."""

    outputs: Outputs
    graph: bool
    note: str

    def __call__(self) -> None:
        """Start them once."""


class Bench(Protocol):
    """What a device offers to the timing loop."""

    hardware: Hardware
    meter: Meter
    overhead_ms: float
    reasons_to_restart: list[str]
    #: When the last samples under load were taken, by time.perf_counter().
    loaded_at: float = -math.inf

    def once_ms(self, run: Run) -> float:
        """Milliseconds of one warm call with everything that the host does for it."""

    def bind(self, runs: Sequence[Run], calls: int, *, graph: bool) -> Replay:
        """`calls` calls, one after the other over the sets in `runs`."""

    def start(self, replay: Replay, count: int, *, flush: bool) -> Times:
        """Begin `count` replays; the function returned waits for them and gives the milliseconds of each.

        `flush` empties the cache before each.
        """

    def sample(
        self, replay: Replay, count: int, *, flush: bool, meanwhile: Callable[[], None]
    ) -> list[float]:
        """Milliseconds of `count` replays; `meanwhile` runs on the host."""
        times = self.start(replay, count, flush=flush)
        meanwhile()
        return times()

    def clock(self) -> Clock:
        """Begin to count cycles; the function returned waits and gives the SM clock in MHz, 0 where unknown."""

    def synchronize(self) -> None:
        """Wait for the device."""

    def release(self) -> None:
        """Give memory of former cases back."""


class Plain:
    """Calls started one by one."""

    def __init__(self, runs: Sequence[Run], calls: int, note: str) -> None:
        self._runs, self._calls = runs, calls
        self.outputs: Outputs = ()
        self.graph, self.note = False, note

    def __call__(self) -> None:
        for i in range(self._calls):
            self.outputs = self._runs[i % len(self._runs)]()


class Captured:
    """Calls in one CUDA graph; `outputs` are those of the last one, written anew by each replay."""

    def __init__(self, graph: Any, outputs: Outputs) -> None:  # Any: torch.cuda.CUDAGraph
        self._graph, self.outputs = graph, outputs
        self.graph, self.note = True, ""

    def __call__(self) -> None:
        self._graph.replay()


class CpuBench(Bench):
    """The host itself, timed with perf_counter: what tests of the whole path run on."""

    def __init__(self) -> None:
        self.hardware = hardware("cpu")
        self.meter: Meter = NoMeter()
        self.overhead_ms = 0.0
        self.reasons_to_restart: list[str] = []

    def once_ms(self, run: Run) -> float:
        run()
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3

    def bind(self, runs: Sequence[Run], calls: int, *, graph: bool) -> Replay:  # noqa: ARG002
        return Plain(runs, calls, "no GPU")

    def start(self, replay: Replay, count: int, *, flush: bool) -> Times:  # noqa: ARG002
        times = []
        for _ in range(count):
            start = time.perf_counter()
            replay()
            times.append((time.perf_counter() - start) * 1e3)
        return lambda: times

    def clock(self) -> Clock:
        return lambda: 0

    def synchronize(self) -> None:
        return None

    def release(self) -> None:
        return None


class CudaBench(Bench):
    """A GPU. All work goes to one side stream, graphs share one memory pool, events are read once per batch.

    `overhead_ms` is what a graph costs beyond its kernels, between the two events: the intercept of the time of graphs
    of few and of many trivial kernels. It is taken off each sample.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.set_device(device)
        self._stream = torch.cuda.Stream()
        torch.cuda.set_stream(self._stream)
        self.hardware = hardware(device)
        uuid = getattr(
            torch.cuda.get_device_properties(device), "uuid", None
        )  # older torch lacks it
        self.meter = meter_of(None if uuid is None else str(uuid))
        self.reasons_to_restart: list[str] = []
        cache = max(self.hardware.l2_bytes, 1 << 20)
        self._flood = torch.zeros(_L2_TIMES * cache // 4, dtype=torch.float32, device=device)
        self._drain = torch.zeros((), dtype=torch.float32, device=device)
        self._events: list[Any] = []  # torch.cuda.Event, those that nobody waits for
        self._pool: Any = None
        self._keeper: Any = None
        self.overhead_ms, self._captures = 0.0, True
        try:
            self.overhead_ms = self._calibrated()
        except RuntimeError as error:
            self._captures = False
            print(f"no CUDA graph can be captured here: {error}", file=sys.stderr)

    def once_ms(self, run: Run) -> float:
        run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3

    def bind(self, runs: Sequence[Run], calls: int, *, graph: bool) -> Replay:
        if not (graph and self._captures):
            return Plain(runs, calls, "the variant or the device cannot be captured")
        try:
            return Captured(*self._capture(runs, calls))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.reasons_to_restart.append("a capture was broken off")
            return Plain(runs, calls, "not captured: " + " ".join(str(error).split())[:120])

    def start(self, replay: Replay, count: int, *, flush: bool) -> Times:
        pairs = [(self._event(), self._event()) for _ in range(count)]
        for start, end in pairs:
            if flush:
                torch.sum(self._flood, dim=0, out=self._drain)
            start.record()
            replay()
            end.record()
        overhead = self.overhead_ms if replay.graph else 0.0

        def times() -> list[float]:
            pairs[-1][1].synchronize()
            self._events += [event for pair in pairs for event in pair]
            return [start.elapsed_time(end) - overhead for start, end in pairs]

        return times

    def clock(self) -> Clock:
        """Two spins of as many cycles as is known, between events: the driver's own word is a tenth of a second old."""
        spin = getattr(torch.cuda, "_sleep", None)  # private: another torch may lack it
        if spin is None:
            return lambda: 0
        marks = [self._event() for _ in range(3)]
        spin(_AHEAD)
        marks[0].record()
        for cycles, mark in zip(_SPINS, marks[1:], strict=True):
            spin(cycles)
            mark.record()

        def mhz() -> int:
            marks[2].synchronize()
            short, long = (marks[i].elapsed_time(marks[i + 1]) for i in range(2))
            self._events += marks
            found = (_SPINS[1] - _SPINS[0]) / (long - short) / 1e3 if long > short else 0.0
            most = self.meter.most_clock
            return round(found) if not most or found <= _OVER * most else 0

        return mhz

    def _event(self) -> Any:  # Any: torch.cuda.Event
        return self._events.pop() if self._events else torch.cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def release(self) -> None:
        """Drop the pool of the graphs once it holds much: memory in it serves graphs only."""
        if torch.cuda.memory_reserved() > _RENEW_SHARE * self.hardware.memory:
            self._pool = self._keeper = None
            torch.cuda.empty_cache()

    def _capture(self, runs: Sequence[Run], calls: int) -> tuple[Any, Outputs]:
        """The graph by hand: torch.cuda.graph() empties the allocator's cache each time, which costs milliseconds."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
            self._keeper, _ = self._recorded([lambda: (self._drain.add_(1),)], 1)
        return self._recorded(runs, calls)

    def _recorded(self, runs: Sequence[Run], calls: int) -> tuple[Any, Outputs]:
        graph, outputs = torch.cuda.CUDAGraph(), ()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            for i in range(calls):
                outputs = runs[i % len(runs)]()
        except BaseException:
            _end_quietly(graph)
            raise
        graph.capture_end()
        return graph, outputs

    def _calibrated(self) -> float:
        few, many = 8, 72
        run: Run = lambda: (self._drain.add_(1),)  # noqa: E731 - one expression
        run()
        medians = []
        for calls in (few, many):
            replay = Captured(*self._capture([run], calls))
            self.sample(replay, 10, flush=True, meanwhile=_nothing)
            times = sorted(self.sample(replay, 31, flush=True, meanwhile=_nothing))
            medians.append(times[15])
        each = (medians[1] - medians[0]) / (many - few)
        return max(medians[0] - few * each, 0.0)


def bench_of(device: torch.device | str, sharers: int = 1) -> Bench:
    """The bench of a device, which has an equal part of its memory where several processes share it."""
    found = torch.device(device)
    bench: Bench = CudaBench(found) if found.type == "cuda" else CpuBench()
    bench.hardware = replace(bench.hardware, memory=bench.hardware.memory // sharers)
    return bench


def profiler(hardware: Hardware) -> Any:  # Any: torch.profiler.profile
    """torch's profiler of what runs on the device, of operators where that is the host.

    There is one cycle, whose events are all: keeping those of earlier ones only hushes torch 2.11's warning.
    """
    from torch.profiler import ProfilerActivity, profile

    gpu = hardware.type == "cuda"
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    return profile(activities=[activity], acc_events=True)


def _end_quietly(graph: Any) -> None:  # Any: torch.cuda.CUDAGraph
    with suppress(RuntimeError):  # the error that broke the capture is the one to be told
        graph.capture_end()


def _nothing() -> None:
    return None
