"""The timing loop: how long an op takes, how sure that is, and what it costs in energy.

A sample is the time of a few calls captured in one CUDA graph, over the number of calls. Weights, caches and states
rotate over more memory than twice the L2 cache where a graph has calls enough, and the cache is emptied by reading
between graphs where not; what the op before would have just written stays the same tensor.

Cases are sampled in a window: each pass visits every case that is open, so that the samples of a case lie apart in
time and see what changes slowly, the clock above all. A case is final once its median is known to 1 %, by the spread
of its samples and by that of the medians of its passes, or once it has had its time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from collector.bench import Bench, Replay
from collector.nvml import wait_for_tick
from oplib.kernels.variant import Call
from perfdb.row_checks import NOISY

Json = dict[str, Any]  # Any: an object that becomes JSON
PASSES = (3, 9)  # over a window: before any case is final, and at most
PER_PASS = 3  # samples of a visit, one where a graph is long
PRECISION = 0.01  # half width of the median's 95 % interval over the median
GRAPH_MS = 0.15  # what a graph should last, so that events and launch are small beside it
LONG_MS = 1.0  # a graph that lasts this long is sampled once a visit
CALLS = 32  # in a graph, at most
HOST_MS = 0.2  # a call that takes longer with its launches: the host may be what takes it
SINGLE_MS = 10.0  # a call that takes longer has a graph to itself
# Replays of a call that is captured to see how long it takes: the first waits for its launch.
_LOOKS = 3
_OVER_BOUND = 1.3  # times the bound that a good kernel takes
REST_SHARE = 0.5  # of the time that a device had rest, that it is loaded for: a quarter was enough on an H200
LEAST_LOAD = 0.02  # seconds of load, where load is asked for
BELOW = 0.98  # of the speed of light: less is no measurement but a mistake
# Student's t for a 95 % interval of the mean of so many medians
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}


class WrongResult(Exception):
    """What was measured cannot be the op: too fast, or its outputs are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`seconds` is what the samples of a case may take; `floor_ms` is the speed of light, 0 where unknown. The device
    runs what is measured for `load_seconds` before the first sample, or for less where it comes from such work: then
    the clock is the one of this load."""

    seconds: float = 1.0
    floor_ms: float = 0.0
    graph: bool = True
    load_seconds: float = 0.0
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


@dataclass(slots=True, kw_only=True)
class Ready:
    """A case bound to a device, and the samples that it has: ms of one call, by pass. `took` is ms of one replay."""

    call: Call
    replay: Replay
    calls: int
    sets: int
    flush: bool
    took: float
    limits: Limits
    passes: list[list[float]] = field(default_factory=list)
    clocks: list[int] = field(default_factory=list)
    throttled: dict[str, None] = field(default_factory=dict)
    spent: float = 0.0

    @property
    def long(self) -> bool:
        """Whether one sample of a visit is enough."""
        return self.took >= LONG_MS

    @property
    def final(self) -> bool:
        """Whether it needs no more samples: its median is known, or its time is over."""
        fewest, most = PASSES
        if len(self.passes) < fewest:
            return False
        over = self.spent > self.limits.seconds or len(self.passes) >= most
        return over or half_width(self.passes) <= PRECISION


def benchmark_with_power(make: Callable[[int], Call], bench: Bench, limits: Limits) -> Timing:
    """The time of a case on a device, and its power where `limits.power_seconds` asks for it.

    `make(n)` gives the case over n sets of inputs. Raises WrongResult where the time is below the speed of light, or
    where a replay leaves NaN in its outputs, which are filled with it before.
    """
    ready = prepare(make, bench, limits)
    _, found = next(sample_window([ready], bench))
    if isinstance(found, WrongResult):
        raise found
    if not limits.power_seconds:
        return found
    power, window = _power(bench, ready.replay, limits)
    if power is None:
        return found
    return replace(
        found, power=power, idle_power=limits.idle_watts, energy=power * found.latency, window=window
    )  # fmt: skip


def prepare(make: Callable[[int], Call], bench: Bench, limits: Limits) -> Ready:
    """The case in a graph that was replayed once, its outputs looked at. Raises WrongResult where they hold NaN."""
    call = make(1)
    once = limits.floor_ms
    if once < LONG_MS:
        once = bench.once_ms(call.runs[0])
    else:
        call.runs[0]()  # what a first call sets up cannot be captured
    calls, uncaptured = _calls(call, bench, limits, once)
    cache = bench.hardware.l2_bytes
    sets = min(calls, max(1, math.ceil(2 * cache / max(call.cold_bytes, 1))))
    flush = bool(cache) and sets * call.cold_bytes < 2 * cache
    if sets > 1:
        call = make(sets)
    replay = bench.bind(call.runs, calls, graph=limits.graph and not uncaptured)
    replay.note = uncaptured or replay.note
    _poison(replay, call)
    took = bench.sample(replay, 1, flush=flush, meanwhile=lambda: None)[0]
    _check_outputs(replay)
    return Ready(
        call=call, replay=replay, calls=calls, sets=sets, flush=flush, took=took, limits=limits
    )  # fmt: skip


def sample_window(
    cases: Sequence[Ready], bench: Bench
) -> Iterator[tuple[int, Timing | WrongResult]]:
    """The place and the time of each case, as soon as it is final.

    Where one asks for load the device runs all of them by turns before the first sample, for `REST_SHARE` of the time
    since it last did.
    """
    if asked := max(case.limits.load_seconds for case in cases):
        now = time.perf_counter()
        until = now + min(asked, max(REST_SHARE * (now - bench.loaded_at), LEAST_LOAD))
        while time.perf_counter() < until:
            for case in cases:
                case.replay()
            bench.synchronize()
    waiting = list(enumerate(cases))
    while waiting:
        _one_pass([case for _, case in waiting], bench)
        left = []
        for place, case in waiting:
            if case.final:
                yield place, _timing(case)
            else:
                left.append((place, case))
        waiting = left
        if asked:
            bench.loaded_at = time.perf_counter()


def _one_pass(cases: Sequence[Ready], bench: Bench) -> None:
    """Visit each case once. A visit that does not empty the cache begins with a replay that does not count: it brings
    back what the op before would have left there, and the device does not wait for the launch of the next."""
    visits, clock = [], bench.clock()
    for case in cases:
        warm = 0 if case.flush or (case.long and len(cases) > 1) else 1
        count = 1 if case.long else PER_PASS
        visits.append((case, warm, bench.start(case.replay, warm + count, flush=case.flush)))
    reading = bench.meter.read()
    for case, warm, times in visits:
        found = times()
        case.passes.append([one / case.calls for one in found[warm:]])
        case.spent += sum(found) / 1e3
        case.throttled |= dict.fromkeys(reading.throttled)
    mhz = clock() or reading.clock
    for case in cases:
        case.clocks.append(mhz)


def _timing(case: Ready) -> Timing | WrongResult:
    each = [one for samples in case.passes for one in samples]
    latency, floor = statistics.median(each), case.limits.floor_ms
    if latency <= 0 or latency < BELOW * floor:
        return WrongResult(f"{latency:.6f} ms is below the speed of light, {floor:.6f} ms")
    return Timing(
        latency=latency,
        spread=spread_of(each),
        samples=len(each),
        calls=case.calls,
        sets=case.sets,
        flushed=case.flush,
        graph=case.replay.graph,
        note=case.replay.note,
        converged=half_width(case.passes) <= PRECISION,
        clock_before=case.clocks[0],
        clock_after=case.clocks[-1],
        throttled=tuple(case.throttled),
    )


def _calls(call: Call, bench: Bench, limits: Limits, once_ms: float) -> tuple[int, str]:
    """How many calls the graph of a case holds, and why there is none where that is known by now.

    What takes the host long says nothing of the device, and is captured once to see, unless the bound alone fills a
    graph. A capture that was broken off is not tried again: the process is not trusted with another.
    """
    on_gpu, uncaptured = bench.hardware.l2_bytes > 0, ""
    short = calls_in_graph(0.0, limits.floor_ms, on_gpu) > 1
    if on_gpu and short and limits.graph and HOST_MS < once_ms <= SINGLE_MS:
        alone = bench.bind(call.runs[:1], 1, graph=True)
        if alone.graph:
            once_ms = min(bench.sample(alone, _LOOKS, flush=False, meanwhile=lambda: None))
            return calls_in_graph(once_ms, once_ms / _OVER_BOUND, on_gpu), ""
        uncaptured = alone.note
    return calls_in_graph(once_ms, limits.floor_ms, on_gpu), uncaptured


def calls_in_graph(once_ms: float, floor_ms: float, on_gpu: bool) -> int:
    """How many calls a graph holds: enough to last `GRAPH_MS` by the better of two guesses.

    The bound is a guess from below, a call with its launches one from above.
    """
    guess = max(_OVER_BOUND * floor_ms, 0.004) if on_gpu else max(once_ms, 1e-4)
    if once_ms > SINGLE_MS:
        return 1
    if once_ms > HOST_MS:
        guess = max(guess, once_ms / 4)
    return min(max(math.ceil(GRAPH_MS / guess), 1), CALLS)


def spread_of(times: Sequence[float]) -> float:
    """The middle half of the samples over their median."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / statistics.median(times)


def disagreement(spread: float, samples: int, bench: Bench) -> str:
    """Why samples are no measurement; empty where they are one. So few that spread so far never converge. Those of a
    host are what they are: nothing is collected there but by tests."""
    if bench.hardware.l2_bytes == 0 or not spread > NOISY:
        return ""
    return f"samples disagree: spread {spread:.2f} after {samples} samples"


def half_width(passes: Sequence[Sequence[float]]) -> float:
    """Half of the 95 % interval of the median over the median, of samples by pass.

    The larger of two. By all samples: the standard error of a median is 1.253 deviations over the root of the count, a
    deviation is the middle half over 1.349. By the passes, which see what changes slowly: their medians are as many
    measurements, of which the mean has an interval by Student's t.
    """
    each = [one for samples in passes for one in samples]
    inside = 1.96 * 1.253 * spread_of(each) / 1.349 / math.sqrt(len(each))
    if len(passes) < 2:
        return inside
    medians = [statistics.median(samples) for samples in passes]
    count = len(medians)
    student = _STUDENT[min(count, max(_STUDENT))]
    between = student * statistics.stdev(medians) / math.sqrt(count) / statistics.median(each)
    return max(inside, between)


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
