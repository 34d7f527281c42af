"""Measuring communication: a worker that is a group of processes, one per device, all of which run the same case.

Every process takes the same steps without asking the others, so the number of calls and samples follows from the size
of the message alone. A sample is the time of the slowest process.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from collector.log import ERROR, OK, SKIPPED, WRONG
from collector.worker import Answer, Options, Task, Worker, die_with_parent, now, one_line
from oplib.errors import InvalidInputError

Json: TypeAlias = dict[str, Any]  # Any: an object that becomes JSON
SEPARATOR = "+"  # between the devices of a group
_SAMPLES, _BATCH = 35, 7
_CALLS = (
    (1 << 20, 20),
    (1 << 26, 8),
)  # calls in a graph up to a message of so many bytes; 3 beyond
_FEWEST = 3


def serve_group(connection: Connection, options: Options) -> None:
    """Answer tasks as process 0 of a group; the others are its children and end with it."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    devices = options.device.split(SEPARATOR)
    port = _free_port()
    context = get_context("spawn")
    pipes = []
    for rank in range(1, len(devices)):
        ours, theirs = context.Pipe()
        peer = context.Process(target=_peer, args=(theirs, options, rank, port), daemon=True)
        peer.start()
        theirs.close()
        pipes.append(ours)
    member = Member(options, 0, port)
    connection.send(Answer(phase="hello", row=member.provenance()))
    with suppress(EOFError):
        while window := connection.recv():
            for place, task in enumerate(window):
                connection.send(Answer(phase="preparing", place=place))
                for pipe in pipes:
                    pipe.send(task)
                row = member.row(task)
                # a process that failed where others did not leaves them waiting: a fresh group is safe
                connection.send(Answer(row=row, place=place, restart=row["status"] == ERROR))


def _peer(connection: Connection, options: Options, rank: int, port: int) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    member = Member(options, rank, port)
    with suppress(EOFError):
        while task := connection.recv():
            member.row(task)


class Member:
    """One process of a group and its device."""

    def __init__(self, options: Options, rank: int, port: int) -> None:
        from dataclasses import replace

        import torch
        from torch import distributed

        devices = options.device.split(SEPARATOR)
        self._size, self._device = len(devices), devices[rank]
        self._worker = Worker(replace(options, device=self._device))
        gpu = self._worker.bench.hardware.type == "cuda"
        distributed.init_process_group(
            "nccl" if gpu else "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=self._size,
            device_id=torch.device(self._device) if gpu else None,
        )
        self._torch: Any = torch  # Any: the module, loaded in the worker alone

    def provenance(self) -> Json:
        """What every row of the group shares; variables that NCCL reads are part of it."""
        nccl = {name: value for name, value in os.environ.items() if name.startswith("NCCL_")}
        return {**self._worker.provenance(), "group": self._size, "environment": nccl}

    def row(self, task: Task) -> Json:
        """The row of a task; every failure is a status."""
        case = task.case
        row: Json = {
            "what": task.what,
            "variant": task.variant or "group",
            "case_id": case.case_id,
            "op": case.op,
            "params": dict(case.params),
            "dims": dict(case.dims),
        }
        try:
            row |= self._measured(task)
        except InvalidInputError as error:
            row |= {"status": SKIPPED, "reason": error.message}
        except Exception as error:  # noqa: BLE001 - becomes the status of this case
            row |= {"status": ERROR, "reason": one_line(error)}
        self._worker.bench.release()
        return {**row, "date": now()}

    def _measured(self, task: Task) -> Json:
        from torch import distributed

        from collector.timing import disagreement
        from oplib.kernels.registry import resolve, slot

        case, bench = task.case, self._worker.bench
        variant = resolve(
            case.op,
            task.variant or "group",
            device=bench.hardware,
            params=case.params,
            dims=case.dims,
        )
        call = variant.make(case.params, case.dims, self._worker.source)
        truth = slot(case.op).reference.bound(call.keep[0], case.params, case.dims)()
        fault = _differs(variant.bound(call.keep[0], case.params, case.dims)(), truth)
        if self._first_says(bool(fault)):
            return {"status": WRONG, "reason": fault}
        calls = next((count for limit, count in _CALLS if case.dims["bytes"] <= limit), _FEWEST)
        for _ in range(3):
            call.runs[0]()
        bench.synchronize()
        replay = bench.bind(call.runs, calls, graph=task.graph and variant.capturable)
        distributed.barrier()
        bench.sample(replay, 2, flush=False, meanwhile=lambda: None)
        times: list[float] = []
        before = bench.meter.read()
        while len(times) < _SAMPLES:
            times += bench.sample(replay, _BATCH, flush=False, meanwhile=lambda: None)
        after = bench.meter.read()
        slowest = self._torch.tensor(times, dtype=self._torch.float64, device=self._device)
        distributed.all_reduce(slowest, op=distributed.ReduceOp.MAX)
        each = [float(one) / calls for one in slowest]
        timing = _timing(each, calls, replay.graph, replay.note) | {
            "clock_before": before.clock,
            "clock_after": after.clock,
            "throttled": list(after.throttled),
        }
        if reason := disagreement(timing["spread"], timing["samples"], bench):
            return {"status": ERROR, "reason": reason}
        return {"status": OK, "timing": timing}

    def _first_says(self, verdict: bool) -> bool:
        """The verdict of process 0, whose part the reference computes, in all processes: they go on or stop as one."""
        from torch import distributed

        told = self._torch.tensor([float(verdict)], device=self._device)
        distributed.broadcast(told, src=0)
        return bool(told.item())


def _timing(each: list[float], calls: int, graph: bool, note: str) -> Json:
    from collector.timing import PRECISION, half_width, spread_of

    return {
        "latency": statistics.median(each),
        "spread": spread_of(each),
        "samples": len(each),
        "calls": calls,
        "sets": 1,
        "flushed": False,
        "graph": graph,
        "note": note,
        "converged": half_width([each]) <= PRECISION,
        "power": None,
        "idle_power": None,
        "energy": None,
        "window": 0.0,
    }


def _differs(found: Any, truth: Any) -> str:  # Any: outputs, whose module loads torch
    """Why outputs are not what all processes giving the same values makes; sums of 16-bit values are rounded."""
    one, true = found[0].double(), truth[0].double()
    if one.shape != true.shape:
        return f"the output is {tuple(one.shape)}, not {tuple(true.shape)}"
    away = float((one - true).abs().max()) if true.numel() else 0.0
    size = float(true.abs().max()) if true.numel() else 1.0
    return "" if away <= 0.02 * size else f"off by {away:.3g} of {size:.3g}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
