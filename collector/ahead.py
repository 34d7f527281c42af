"""Compiling ahead: processes that compile what a run will measure, all at once, before the first sample is taken.

torch keeps what it compiled on disk, where the worker that measures finds it. One case stands for all that share a
compilation: same kind, variant, parameters and other constants of its code, sizes of 1 among them. Nothing is measured
while these processes run, and what they could not compile the worker compiles itself.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Iterable, Sequence
from multiprocessing.queues import Queue
from typing import Any

from collector.worker import Task, die_with_parent
from oplib.case import Case
from oplib.errors import InvalidInputError
from perfdb.speed_of_light import bound_ms
from perfdb.systems import System

_FEWEST = 24  # compilations that pay for the processes, each of which opens the device
_EACH = 12  # compilations of a process, before another one pays
_MEMORY_SHARE = 0.6  # of the device, that all processes take together
_POLL_SECONDS = 0.2


def representatives(tasks: Iterable[Task], system: System, device: str) -> list[tuple[Case, str]]:
    """A case and a variant for each compilation that the tasks need, the middle one by its bound.

    Before them the examples that each variant is checked on.
    """
    from oplib.kernels.compiled import Compiled
    from oplib.kernels.hardware import hardware
    from oplib.kernels.registry import examples, resolve, slot

    here = hardware(device)
    alike: dict[tuple[Any, ...], list[Case]] = {}  # Any: parameters and dims
    for task in tasks:
        case = task.case
        try:
            variant = resolve(
                case.op, task.variant or None, device=here, params=case.params, dims=case.dims
            )
        except InvalidInputError:
            continue
        if isinstance(variant, Compiled):
            constants = variant.constants(case.params, case.dims)
            single = (size == 1 for size in case.dims.values())  # which torch compiles apart
            key = (case.op, variant.name, *case.params.items(), *constants, *single)
            alike.setdefault(key, []).append(case)

    def middle(cases: list[Case]) -> Case:
        ordered = sorted(
            cases, key=lambda one: (bound_ms(one.kind, one.params, one.dims, system), one.case_id)
        )
        return ordered[len(ordered) // 2]

    checked = [
        (Case(op=op, params=params, dims=dims), name)
        for op, name in dict.fromkeys((key[0], key[1]) for key in alike)
        for params, dims in examples(slot(op).variants[name], here)
    ]
    return checked + [(middle(cases), str(key[1])) for key, cases in alike.items()]


def compile_ahead(
    wanted: Sequence[tuple[Case, str]], device: str, *, processes: int, seconds: float
) -> float:
    """Compile for at most `seconds`; the seconds that it took."""
    start = time.monotonic()
    if len(wanted) < _FEWEST or processes < 1:
        return 0.0
    processes = min(processes, -(-len(wanted) // _EACH))
    print(f"{len(wanted)} compilations ahead, {processes} at a time", file=sys.stderr, flush=True)
    context = multiprocessing.get_context("spawn")
    waiting: Queue[Any] = context.Queue()
    for one in wanted:
        waiting.put(one)
    for _ in range(processes):
        waiting.put(None)
    share = _MEMORY_SHARE / processes
    helpers = [
        context.Process(target=_compile, args=(waiting, device, share)) for _ in range(processes)
    ]
    for helper in helpers:
        helper.start()
    while any(one.is_alive() for one in helpers) and time.monotonic() - start < seconds:
        time.sleep(_POLL_SECONDS)
    for helper in helpers:
        helper.kill()
    for helper in helpers:  # the device takes a second to let go of each, side by side
        helper.join()
    waiting.cancel_join_thread()
    return time.monotonic() - start


def _compile(waiting: Queue[Any], device: str, share: float) -> None:
    """Run each case once: the first call of a compiled variant compiles it."""
    die_with_parent()
    import torch
    from torch._inductor import config

    from oplib.kernels.hardware import hardware
    from oplib.kernels.registry import slot
    from oplib.kernels.source import PoolSource

    torch.set_grad_enabled(False)
    config.compile_threads = 1  # the processes are the threads
    memory = hardware(device).memory or 1 << 32
    if device != "cpu":
        torch.cuda.set_device(device)
    source = PoolSource(device, 0, start=1 << 24, limit=int(share * memory))
    while True:
        try:
            found = waiting.get(timeout=1.0)
        except queue.Empty:
            found = None
        if found is None:
            os._exit(0)  # what torch would tidy up takes longer than the rest
        case, name = found
        try:
            slot(case.op).variants[name].make(case.params, case.dims, source).runs[0]()
        except Exception as error:  # noqa: BLE001 - the worker that measures it says so in a row
            print(f"not compiled ahead: {name} of {case.op}: {str(error)[:200]}", file=sys.stderr)
