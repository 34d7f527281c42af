"""The timing loop: how long an op takes, how sure that is, and what it costs in energy.

A sample is the time of a few calls captured in one CUDA graph, over the number of calls. Weights, caches and states
rotate over more memory than twice the L2 cache where a graph has calls enough, and the cache is emptied by reading
between graphs where not; what the op before would have just written stays the same tensor. Samples are taken until the
median is known to 1 %: 1.96 standard errors of it, by the spread of the middle half, or until the time limit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from collector.bench import Bench, Replay
from collector.nvml import Reading, wait_for_tick
from oplib.kernels.variant import Call

Json = dict[str, Any]  # Any: an object that becomes JSON
BATCH = 7  # samples taken before anything is read
MOST_SAMPLES = 63
PRECISION = 0.01  # half width of the median's 95 % interval over the median
GRAPH_MS = 0.15  # what a graph should last, so that events and launch are small beside it
CALLS = (3, 32)  # calls in a graph
BELOW = 0.98  # of the speed of light: less is no measurement but a mistake


class WrongResult(Exception):
    """What was measured cannot be the op: too fast, or its outputs are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`seconds` is what the samples of a case may take; `floor_ms` is the speed of light, 0 where unknown."""

    seconds: float = 1.0
    floor_ms: float = 0.0
    graph: bool = True
    power_seconds: float = 0.0
    idle_watts: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One case timed. `latency` is the median in ms of one call, `spread` the middle half of the samples over it.

    `power` is W beyond `idle_power` while the op runs back to back, over `window` seconds, and `energy` W*ms of one
    call, power times latency; None where they were not taken. Clocks are MHz, 0 where unknown.
    """

    latency: float
    spread: float
    samples: int
    calls: int
    sets: int
    flushed: bool
    graph: bool
    note: str
    converged: bool
    clock_before: int
    clock_after: int
    throttled: tuple[str, ...]
    power: float | None = None
    idle_power: float | None = None
    energy: float | None = None
    window: float = 0.0

    def to_json(self) -> Json:
        """The fields."""
        return asdict(self)


def benchmark_with_power(make: Callable[[int], Call], bench: Bench, limits: Limits) -> Timing:
    """The time of a case on a device, and its power where `limits.power_seconds` asks for it.

    `make(n)` gives the case over n sets of inputs. Raises WrongResult where the time is below the speed of light, or
    where a replay leaves NaN in its outputs, which are filled with it before.
    """
    call = make(1)
    once = bench.once_ms(call.runs[0])
    calls = calls_in_graph(once, limits.floor_ms, bench.hardware.l2_bytes > 0)
    cache = bench.hardware.l2_bytes
    sets = min(calls, max(1, math.ceil(2 * cache / max(call.cold_bytes, 1))))
    flush = bool(cache) and sets * call.cold_bytes < 2 * cache
    if sets > 1:
        call = make(sets)
    replay = bench.bind(call.runs, calls, graph=limits.graph)
    _poison(replay, call)
    before = bench.meter.read()
    times, after = _samples(bench, replay, flush=flush, seconds=limits.seconds)
    _check_outputs(replay)
    each = [one / calls for one in times]
    latency = statistics.median(each)
    if latency <= 0 or latency < BELOW * limits.floor_ms:
        raise WrongResult(f"{latency:.6f} ms is below the speed of light, {limits.floor_ms:.6f} ms")
    power, window = None, 0.0
    if limits.power_seconds:
        power, window = _power(bench, replay, limits)
    return Timing(
        latency=latency,
        spread=spread_of(each),
        samples=len(each),
        calls=calls,
        sets=sets,
        flushed=flush,
        graph=replay.graph,
        note=replay.note,
        converged=half_width(each) <= PRECISION,
        clock_before=before.clock,
        clock_after=after.clock,
        throttled=after.throttled,
        power=power,
        idle_power=limits.idle_watts if power is not None else None,
        energy=None if power is None else power * latency,
        window=window,
    )  # fmt: skip


def calls_in_graph(once_ms: float, floor_ms: float, on_gpu: bool) -> int:
    """How many calls a graph holds: enough to last `GRAPH_MS` by the better of two guesses, few where they are long.

    The bound is a guess from below, a call with its launches one from above.
    """
    guess = max(1.3 * floor_ms, 0.004) if on_gpu else max(once_ms, 1e-4)
    if once_ms > 10.0:
        return 1
    if once_ms > 1.0:
        guess = max(guess, once_ms / 4)
    fewest, most = CALLS
    return min(max(math.ceil(GRAPH_MS / guess), fewest), most)


def spread_of(times: list[float]) -> float:
    """The middle half of the samples over their median."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / statistics.median(times)


def half_width(times: list[float]) -> float:
    """Half of the 95 % interval of the median over the median; the deviation is that of a normal with this spread.

    The standard error of a median is 1.253 deviations over the root of the count, a deviation is the middle half over
    1.349.
    """
    return 1.96 * 1.253 * spread_of(times) / 1.349 / math.sqrt(len(times))


def _samples(
    bench: Bench, replay: Replay, *, flush: bool, seconds: float
) -> tuple[list[float], Reading]:
    """Samples until the median is known, and what the GPU said of itself while they ran."""
    readings = [Reading()]
    bench.sample(replay, 1, flush=flush, meanwhile=lambda: None)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MOST_SAMPLES:
        times += bench.sample(
            replay, BATCH, flush=flush, meanwhile=lambda: readings.append(bench.meter.read())
        )
        if half_width(times) <= PRECISION or time.perf_counter() > end:
            break
    reasons = dict.fromkeys(reason for reading in readings for reason in reading.throttled)
    return times, Reading(clock=readings[-1].clock, throttled=tuple(reasons))


def _power(bench: Bench, replay: Replay, limits: Limits) -> tuple[float | None, float]:
    """W beyond idle while the op runs back to back, and the seconds between the two ticks that it is taken from."""

    def busy() -> None:
        for _ in range(10):
            replay()
        bench.synchronize()

    start = wait_for_tick(bench.meter, busy)
    if start is None:
        return None, 0.0
    while time.perf_counter() - start[0] < limits.power_seconds:
        busy()
    end = wait_for_tick(bench.meter, busy)
    if end is None:
        return None, 0.0
    seconds = end[0] - start[0]
    return (end[1] - start[1]) / 1e3 / seconds - limits.idle_watts, seconds


def idle_watts(bench: Bench, seconds: float = 1.0) -> float:
    """W of the device while it does nothing, its context open; 0 where it cannot be asked."""
    start = wait_for_tick(bench.meter, lambda: time.sleep(0.002))
    if start is None:
        return 0.0
    time.sleep(seconds)
    end = wait_for_tick(bench.meter, lambda: time.sleep(0.002))
    return 0.0 if end is None else (end[1] - start[1]) / 1e3 / (end[0] - start[0])


def _own(replay: Replay, call: Call | None) -> list[torch.Tensor]:
    """Floating outputs that are no inputs: an input that is written in place has to keep its values."""
    given = {t.data_ptr() for inputs in (call.keep if call else ()) for t in _tensors(inputs)}
    return [t for t in replay.outputs if t.is_floating_point() and t.data_ptr() not in given]


def _tensors(value: Any) -> list[torch.Tensor]:  # Any: inputs are nested
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for one in value.values() for t in _tensors(one)]
    return [t for one in value for t in _tensors(one)] if isinstance(value, list) else []


def _poison(replay: Replay, call: Call) -> None:
    if replay.graph:
        for tensor in _own(replay, call):
            tensor.fill_(float("nan"))


def _check_outputs(replay: Replay) -> None:
    for tensor in replay.outputs:
        if tensor.is_floating_point() and tensor.element_size() > 1 and bool(tensor.isnan().any()):
            raise WrongResult("outputs hold NaN after a replay")
