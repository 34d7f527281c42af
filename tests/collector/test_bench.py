"""The CUDA bench over a stand-in for torch.cuda that keeps time by counting kernels: captures, overhead, fallbacks."""

from __future__ import annotations

import types

import pytest
import torch

from collector import bench
from collector.bench import CudaBench
from collector.timing import Limits, benchmark_with_power
from oplib.kernels.hardware import Hardware
from oplib.kernels.variant import Call

KERNEL_MS, GRAPH_MS = 0.002, 0.006
MHZ = 1500


class FakeCuda:
    """Time passes by `KERNEL_MS` per call and by `GRAPH_MS` per graph; captured calls run again at each replay."""

    OutOfMemoryError = torch.OutOfMemoryError

    def __init__(self) -> None:
        self.clock, self.capturing, self.refuse = 0.0, None, False
        self.captures = 0

    def kernel(self) -> None:
        if self.capturing is None:
            self.clock += KERNEL_MS
        else:
            self.capturing.kernels += 1

    def sleep(self, cycles: int) -> None:
        self.clock += KERNEL_MS + cycles / MHZ / 1e3

    def graph(self):
        owner = self

        class Graph:
            kernels = 0

            def capture_begin(self, pool, capture_error_mode) -> None:
                assert pool == "pool"
                assert capture_error_mode == "thread_local"
                owner.captures += 1
                owner.capturing = self

            def capture_end(self) -> None:
                owner.capturing = None

            def replay(self) -> None:
                owner.clock += GRAPH_MS + self.kernels * KERNEL_MS

        return Graph()

    def event(self, enable_timing: bool):
        owner = self

        class Event:
            def record(self) -> None:
                self.at = owner.clock

            def synchronize(self) -> None:
                return None

            def elapsed_time(self, other) -> float:
                return other.at - self.at

        assert enable_timing
        return Event()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    stand_in = types.SimpleNamespace(
        set_device=lambda device: None,
        Stream=lambda: "side",
        set_stream=lambda stream: None,
        get_device_properties=lambda device: types.SimpleNamespace(uuid=None),
        CUDAGraph=fake.graph,
        Event=fake.event,
        _sleep=fake.sleep,
        graph_pool_handle=lambda: "pool",
        synchronize=lambda: None,
        memory_reserved=lambda: 10,
        empty_cache=lambda: None,
    )
    monkeypatch.setattr(bench.torch, "cuda", stand_in)
    monkeypatch.setattr(
        bench, "hardware", lambda device: Hardware(type="cuda", l2_bytes=4096, memory=16)
    )
    add = torch.Tensor.add_

    def counted(self, other):
        if fake.refuse and fake.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        fake.kernel()
        return add(self, other)

    monkeypatch.setattr(torch.Tensor, "add_", counted)
    return fake


def make(tensor: torch.Tensor, cold: int = 0):
    return lambda sets: Call(
        runs=tuple(lambda: (tensor.add_(1).clone(),) for _ in range(sets)), cold_bytes=cold
    )


def test_what_a_graph_costs_is_taken_off(cuda: FakeCuda) -> None:
    """The intercept of graphs of 8 and 72 kernels is the graph's own cost; a kernel then takes what it takes."""
    device = CudaBench(torch.device("cpu"))
    assert device.overhead_ms == pytest.approx(GRAPH_MS)
    found = benchmark_with_power(make(torch.zeros(3, dtype=torch.int64)), device, Limits())
    assert found.latency == pytest.approx(KERNEL_MS)
    assert found.graph
    assert found.calls == 32
    assert found.clock_after == MHZ  # from two spins, what starts one being taken off


def test_a_clock_beyond_the_highest_one_is_unknown(cuda: FakeCuda) -> None:
    """Something came between two marks: the short spin looks longer than it was."""
    device = CudaBench(torch.device("cpu"))
    device.meter.most_clock = MHZ
    assert device.clock()() == MHZ
    device.meter.most_clock = MHZ - 100
    assert device.clock()() == 0


def test_a_capture_that_is_refused_runs_plainly_and_asks_for_a_restart(cuda: FakeCuda) -> None:
    device = CudaBench(torch.device("cpu"))
    cuda.refuse = True
    found = benchmark_with_power(make(torch.zeros(3, dtype=torch.int64)), device, Limits())
    assert (found.graph, device.reasons_to_restart) == (False, ["a capture was broken off"])
    assert "not permitted" in found.note
    assert found.latency == pytest.approx(KERNEL_MS)
    assert cuda.capturing is None


def test_a_device_without_graphs_is_told_once(
    cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda.refuse = True
    device = CudaBench(torch.device("cpu"))
    assert "no CUDA graph can be captured here" in capsys.readouterr().err
    captures = cuda.captures
    found = benchmark_with_power(make(torch.zeros(3, dtype=torch.int64)), device, Limits())
    assert (found.graph, device.overhead_ms, device.reasons_to_restart) == (False, 0.0, [])
    assert cuda.captures == captures


def test_graph_memory_is_let_go_when_it_is_much(
    cuda: FakeCuda,
) -> None:
    device = CudaBench(torch.device("cpu"))
    device.release()
    assert device._pool is None  # 10 of 16 bytes are reserved, over half
    assert benchmark_with_power(make(torch.zeros(3, dtype=torch.int64)), device, Limits()).graph
