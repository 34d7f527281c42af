"""The timing loop over a bench whose clock is known: what it samples, when it stops, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from collector import timing
from collector.bench import Plain
from collector.nvml import NoMeter, Reading, wait_for_tick
from collector.timing import (
    LEAST_LOAD,
    PASSES,
    PER_PASS,
    PRECISION,
    Limits,
    WrongResult,
    benchmark_with_power,
    calls_in_graph,
    disagreement,
    half_width,
    idle_watts,
    prepare,
    sample_window,
    spread_of,
)
from oplib.kernels.hardware import Hardware
from oplib.kernels.variant import Call
from perfdb.row_checks import NOISY


class GraphLike(Plain):
    """Calls that say they are a graph, so that outputs are poisoned."""

    def __init__(self, runs, calls) -> None:
        super().__init__(runs, calls, "")
        self()
        self.graph = True


@dataclass
class FakeBench:
    """A device on which a call takes the times of `scripted`, over and over, in ms."""

    scripted: list[float]
    meter: object = field(default_factory=NoMeter)
    hardware: Hardware = field(default_factory=lambda: Hardware(type="cuda", l2_bytes=1000))
    overhead_ms: float = 0.0
    loaded_at: float = -math.inf
    reasons_to_restart: list[str] = field(default_factory=list)
    taken: int = 0
    flushes: list[bool] = field(default_factory=list)
    sets: int = 0
    mhz: int = 0

    def once_ms(self, run) -> float:
        run()
        return self.scripted[0]

    def bind(self, runs, calls, *, graph):
        self.sets, self.calls = len(runs), calls
        return GraphLike(runs, calls) if graph else Plain(runs, calls, "asked for")

    def start(self, replay, count: int, *, flush: bool) -> Callable[[], list[float]]:
        self.flushes.append(flush)
        replay()
        begin = self.taken
        self.taken += count
        times = [
            self.scripted[i % len(self.scripted)] * self.calls for i in range(begin, begin + count)
        ]
        return lambda: times

    def sample(self, replay, count, *, flush, meanwhile: Callable[[], None]) -> list[float]:
        meanwhile()
        return self.start(replay, count, flush=flush)()

    def clock(self) -> Callable[[], int]:
        return lambda: self.mhz

    def synchronize(self) -> None:
        return None

    def release(self) -> None:
        return None


@dataclass
class Bound(FakeBench):
    """One that keeps whether each binding asked for a graph; with `breaks` every capture is broken off."""

    breaks: bool = False
    asked: list[bool] = field(default_factory=list)

    def bind(self, runs, calls, *, graph):
        self.asked.append(graph)
        found = super().bind(runs, calls, graph=graph and not self.breaks)
        if graph and self.breaks:
            found.note = "not captured: refused"
        return found


def make(cold: int = 0, run: Callable[[], tuple] | None = None) -> Callable[[int], Call]:
    one = run or (lambda: (torch.ones(2),))
    return lambda sets: Call(runs=(one,) * sets, cold_bytes=cold)


def test_a_steady_case_stops_after_the_fewest_passes() -> None:
    found = benchmark_with_power(make(), FakeBench([0.01]), Limits())
    assert (found.latency, found.spread, found.converged) == (0.01, 0.0, True)
    assert found.samples == PASSES[0] * PER_PASS
    assert (found.graph, found.calls) == (True, 32)
    assert found.power is None


def test_a_noisy_case_is_sampled_until_its_median_is_known() -> None:
    """Samples that spread over 8 % need more passes; those that never settle end unconverged at the limit."""
    some = benchmark_with_power(make(), FakeBench([0.01, 0.0102, 0.0098, 0.0101, 0.0099]), Limits())
    assert some.samples > PASSES[0] * PER_PASS
    assert some.converged
    never = benchmark_with_power(make(), FakeBench([0.01, 0.02]), Limits())
    assert (never.samples, never.converged) == (PASSES[1] * PER_PASS, False)
    late = benchmark_with_power(make(), FakeBench([0.01, 0.02]), Limits(seconds=0.0))
    assert late.samples == PASSES[0] * PER_PASS


def test_a_long_graph_is_sampled_once_a_visit() -> None:
    found = benchmark_with_power(make(), FakeBench([2.0]), Limits(floor_ms=1.9))
    assert (found.calls, found.samples, found.converged) == (1, PASSES[0], True)


def test_a_drift_between_passes_is_no_convergence() -> None:
    """Samples that agree within each pass and differ by 3 % from pass to pass: their own spread would say 1 %."""
    steady = [[1.0, 1.0, 1.0], [1.03, 1.03, 1.03], [1.0, 1.0, 1.0], [1.03, 1.03, 1.03]]
    assert half_width([[one for samples in steady for one in samples]]) < half_width(steady)
    assert half_width(steady) > 2 * PRECISION
    assert half_width([[1.0] * 3] * 3) == 0.0


def test_cases_of_a_window_take_turns() -> None:
    """Each pass visits every open case once; a case is given out when it is final, before the others are."""

    class Turns(FakeBench):
        def start(self, replay, count: int, *, flush: bool) -> Callable[[], list[float]]:
            visited.append(replay)
            noisy = replay is cases[1].replay
            times = [
                0.01 * self.calls * (1.0 + noisy * 0.3 * (len(visited) % 4)) for _ in range(count)
            ]
            return lambda: times

    visited: list = []
    cases: list = []
    bench = Turns([0.01], mhz=1755)
    cases += [prepare(make(), FakeBench([0.01]), Limits()) for _ in range(3)]
    bench.calls = 32
    found = list(sample_window(cases, bench))
    assert visited[:9] == [case.replay for case in cases] * PASSES[0]
    assert [place for place, _ in found] == [0, 2, 1]
    assert [timing.converged for _, timing in found] == [True, True, False]
    assert {timing.clock_after for _, timing in found} == {1755}


def test_the_criterion_is_the_interval_of_a_median() -> None:
    """Medians of normal samples fall within the stated half width 95 times of 100, about, in one pass or in several."""
    generator = torch.Generator().manual_seed(0)
    for passes, count in ((1, 49), (5, 9)):
        inside, rounds = 0, 400
        for _ in range(rounds):
            times = (10 + 0.2 * torch.randn(passes, count, generator=generator)).tolist()
            median = sorted(one for samples in times for one in samples)[passes * count // 2]
            inside += abs(median / 10 - 1) <= half_width(times)
        assert 0.90 <= inside / rounds <= 0.995
    assert PRECISION == 0.01
    assert spread_of([1.0]) == 0.0


@pytest.mark.parametrize(
    ("cold", "sets", "flushed"), [(0, 32, True), (10, 32, True), (100, 20, False), (10_000, 1, False)]
)  # fmt: skip
def test_weights_rotate_over_twice_the_cache(cold: int, sets: int, flushed: bool) -> None:
    """As many sets as twice the cache holds, at most one per call; where that is too little the cache is emptied."""
    bench = FakeBench([0.001])
    found = benchmark_with_power(make(cold), bench, Limits())
    assert (found.sets, bench.sets, found.flushed) == (sets, sets, flushed)
    assert set(bench.flushes) == {flushed}


def test_below_the_speed_of_light_is_refused() -> None:
    with pytest.raises(WrongResult, match="below the speed of light"):
        benchmark_with_power(make(), FakeBench([0.5]), Limits(floor_ms=0.6))
    assert benchmark_with_power(make(), FakeBench([0.5]), Limits(floor_ms=0.5)).latency == 0.5


def test_outputs_that_a_replay_leaves_are_found() -> None:
    """A call that computes once and then hands out what it has, without writing it again."""
    kept = torch.ones(3)
    with pytest.raises(WrongResult, match="NaN"):
        benchmark_with_power(make(run=lambda: (kept,)), FakeBench([0.5]), Limits())
    plain = benchmark_with_power(make(), FakeBench([0.5]), Limits(graph=False))
    assert (plain.graph, plain.note) == (False, "asked for")


@pytest.mark.parametrize(
    ("once", "floor", "gpu", "calls"),
    [(0.02, 0.0, True, 32), (0.02, 0.02, True, 6), (0.02, 1.0, True, 1), (50.0, 0.0, True, 1), (0.4, 0.0, True, 2),
     (0.05, 0.0, False, 3), (0.001, 0.0, False, 32)],
)  # fmt: skip
def test_calls_in_a_graph(once: float, floor: float, gpu: bool, calls: int) -> None:
    assert calls_in_graph(once, floor, gpu) == calls


def test_a_slow_host_does_not_shorten_a_graph() -> None:
    """A call of 0.01 ms on the device that takes the host 0.5 ms fills its graph as any other."""

    class SlowHost(FakeBench):
        def once_ms(self, run) -> float:
            run()
            return 0.5

    assert benchmark_with_power(make(), SlowHost([0.01]), Limits()).calls == 15
    assert benchmark_with_power(make(), SlowHost([0.5]), Limits()).calls == 1
    assert benchmark_with_power(make(), SlowHost([0.5]), Limits(graph=False)).calls == 2


def test_what_the_bound_fills_is_not_captured_to_see() -> None:
    """A graph of one call by the bound alone: one capture, the real one."""
    bench = Bound([2.0])
    assert benchmark_with_power(make(), bench, Limits(floor_ms=1.9)).calls == 1
    assert bench.asked == [True]
    bench = Bound([0.3])
    assert benchmark_with_power(make(), bench, Limits(floor_ms=0.01)).calls == 1
    assert bench.asked == [True, True]


def test_a_broken_capture_is_not_tried_again() -> None:
    """The look at one call breaks off: the calls run plainly, and the note says why."""
    bench = Bound([0.5], breaks=True)
    found = benchmark_with_power(make(), bench, Limits())
    assert bench.asked == [True, False]
    assert (found.graph, found.note, found.calls) == (False, "not captured: refused", 2)


def test_samples_that_disagree_are_no_measurement() -> None:
    """Only above the limit, never on a host, and never where they converged."""
    gpu, host = FakeBench([1.0]), FakeBench([1.0], hardware=Hardware(type="cpu"))
    assert disagreement(0.45, 27, gpu) == "samples disagree: spread 0.45 after 27 samples"
    assert disagreement(NOISY, 27, gpu) == disagreement(0.45, 27, host) == ""
    most = [[1.0 - NOISY, 1.0, 1.0 + NOISY]] * PASSES[1]
    assert spread_of([one for samples in most for one in samples]) >= NOISY
    assert half_width(most) > PRECISION


class TickingMeter:
    """A counter that moves by 30 J at every third look, as one that is read faster than it ticks."""

    driver = "1"

    def __init__(self, watts: float) -> None:
        self.watts, self.looks = watts, 0

    def read(self) -> Reading:
        return Reading(clock=1980, throttled=("sw_power_cap",))

    def energy_mj(self) -> float:
        import time

        self.looks += 1
        return math.floor(time.perf_counter() / 0.02) * 0.02 * self.watts * 1e3


def test_power_is_taken_between_ticks_and_idle_is_subtracted() -> None:
    """A device of 500 W with 100 W idle: 400 W within the reading error of the ticks; energy is power times latency."""
    bench = FakeBench([0.5], meter=TickingMeter(500.0))
    found = benchmark_with_power(make(), bench, Limits(power_seconds=0.4, idle_watts=100.0))
    assert found.power == pytest.approx(400, rel=0.1)
    assert found.energy == pytest.approx(found.power * found.latency)
    assert (found.idle_power, found.clock_after) == (100.0, 1980)
    assert found.throttled == ("sw_power_cap",)
    assert found.window >= 0.4
    assert idle_watts(bench, seconds=0.2) == pytest.approx(500, rel=0.2)


def test_a_meter_that_knows_nothing_gives_no_power() -> None:
    assert wait_for_tick(NoMeter(), lambda: None) is None
    found = benchmark_with_power(make(), FakeBench([0.5]), Limits(power_seconds=0.4))
    assert (found.power, found.energy, found.clock_after) == (None, None, 0)


class LoadedBench(FakeBench):
    """A device whose replays take 1 ms each; `now` is the time on its host, in s."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def bind(self, runs, calls, *, graph):
        return Counted(self, super().bind(runs, calls, graph=graph).graph)


@dataclass
class Counted:
    """A replay that takes the device's time and counts how often it ran."""

    device: LoadedBench
    graph: bool
    outputs: tuple = ()
    note: str = ""
    ran: int = 0

    def __call__(self) -> None:
        self.ran += 1
        self.device.now += 1e-3


@pytest.mark.parametrize(
    ("load", "rest", "runs"),
    [(0.0, 9.0, 0.0), (0.15, math.inf, 0.15), (0.15, 1.0, 0.15), (0.15, 0.2, 0.1), (0.15, 0.01, LEAST_LOAD)],
)  # fmt: skip
def test_a_window_runs_before_its_first_sample(
    load: float, rest: float, runs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its cases by turns, for as long as the one that asks for most, or half of the time since the last samples
    under load; not at all where none asks."""
    device = LoadedBench([1.0])
    monkeypatch.setattr(timing, "time", device)
    asked = (0.0, load, load / 2)
    cases = [prepare(make(), device, Limits(load_seconds=seconds)) for seconds in asked]
    device.loaded_at = device.now - rest
    begun, before, first = device.now, [case.replay.ran for case in cases], []

    def start(replay, count: int, *, flush: bool) -> Callable[[], list[float]]:
        first.append(device.now)
        return lambda: [1.0] * count

    device.start = start  # type: ignore[method-assign]
    assert len(list(sample_window(cases, device))) == 3
    assert first[0] - begun == pytest.approx(runs, abs=len(cases) * 1e-3)
    ran = [case.replay.ran - count for case, count in zip(cases, before, strict=True)]
    assert max(ran) == min(ran) == pytest.approx(runs * 1e3 / 3, abs=1)
    assert device.loaded_at == (device.now if load else begun - rest)
