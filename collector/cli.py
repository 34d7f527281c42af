"""`collect-ops`: measure ops on the devices of this host, into a log that a killed run goes on from."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from collector.arguments import chosen_variants, parser
from collector.log import OK, OOM, Json, latest, read_log, verify
from oplib.case import Case
from oplib.command_line import run_command
from oplib.errors import InvalidInputError
from oplib.op import kind
from oplib.wording import duration

_SHARE = 1 / 4  # of a window, that a case which is compiled fills at least
_MOST_BESIDE = 12  # processes on a GPU, by default
_PART = 0.5  # of a process's part of a device, that a case may fill
_GPU_SECONDS, _CPU_SECONDS = 0.25, 0.02  # for the samples of a case; a CPU's times are for tests
Options: TypeAlias = argparse.Namespace


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    return run_command("collect-ops", lambda given: _act(parser().parse_args(given)), arguments)


def _act(options: Options) -> int:
    if options.kernels:
        return _kernels(options)
    if options.verify:
        return _verify(options)
    if options.compare:
        from collector.repeat import compare, told

        found = compare(options.compare, _folder(options))
        print(json.dumps(found) if options.json else told(found))
        return 0
    if options.export and not (options.ops or options.cases or options.examples):
        _say(options, _tables(options))
        return 0
    tasks = _tasks(options)
    if options.list:
        for task in tasks:
            print(json.dumps(task.case.to_json() | {"variant": task.variant}))
        return 0
    return _measure(options, tasks)


def _tasks(options: Options) -> list[Any]:  # Any: tasks, whose module is loaded where there is work
    """What there is to do, in the order it is done."""
    from collector.grids import grid_cases, in_laps, spread_out, window_share
    from collector.worker import Task
    from perfdb.systems import load_system

    chosen = chosen_variants(options.variant, example="gemm=eager")
    cases: list[Case] = []
    for op in filter(None, (options.ops or "").split(",")):
        dtypes = [name for name in options.dtypes.split(",") if name]
        count = len(_devices(options)) if kind(op).role == "communication" else 1
        cases += grid_cases(
            op,
            options.system,
            dtypes=dtypes,
            num_gpus=count,
            models=filter(None, options.models.split(",")),
        )
    if options.cases:
        from oplib.case import read_plan

        cases += read_plan(options.cases).cases
    if options.examples:
        cases += _examples()
    if not (options.ops or options.cases or options.examples):
        raise InvalidInputError(
            "Nothing to measure is named.", "Give --ops, --cases or --examples."
        )
    cases = list({case.case_id: case for case in cases}.values())
    if not options.examples:
        cases = spread_out(cases, options.seed)
    if options.limit and options.limit < len(cases):
        cases = random.Random(options.seed).sample(cases, options.limit)
    system = load_system(options.system)
    alone, cpu = options.what != "time", _devices(options)[0].startswith("cpu")
    return [
        Task(
            case=case,
            variant=variant,
            what=options.what,
            share=1.0 if alone else window_share(case, system, cpu=cpu),
        )
        for case in in_laps(cases, system)
        for variant in _variants(chosen, case)
    ]


def _variants(chosen: Mapping[str, str], case: Case) -> Iterable[str]:
    """The variants that a case is measured with: the one asked for, none in particular (""), or all that can run."""
    name = chosen.get(case.op, chosen.get("all", ""))
    if name != "all":
        return (name,)
    from oplib.kernels.registry import ranked

    return [variant.name for variant in ranked(case.op)]


def _examples() -> list[Case]:
    from oplib.kernels.registry import slots

    return [
        Case(op=slot.name, params=params, dims=dims)
        for slot in slots().values()
        for params, dims in slot.examples
    ]


def _measure(options: Options, tasks: list[Any]) -> int:  # Any: tasks
    from collector.grids import expected_seconds
    from collector.progress import Progress
    from perfdb.systems import load_system

    system = load_system(options.system)
    if options.adaptive:
        return _refine(options, tasks)
    done = _done(options)
    todo = [t for t in tasks if (t.what, t.variant, t.case.case_id) not in done]
    devices = _devices(options)
    cpu = devices[0].startswith("cpu")
    seconds = sum(expected_seconds(t.case, system, cpu=cpu) for t in todo) / len(devices)
    limit = f", stops after {options.budget:.0f} s" if options.budget else ""
    print(
        f"{len(todo)} cases to measure, {len(tasks) - len(todo)} have a row; about {duration(seconds * 1e3)} on "
        f"{', '.join(devices)}{limit}",
        file=sys.stderr,
    )
    if options.dry_run:
        _say(
            options,
            {"cases": len(todo), "done": len(tasks) - len(todo), "seconds": round(seconds, 1)},
        )
        return 0
    return _run(options, todo, devices, Progress(len(todo)))


def _refine(options: Options, tasks: list[Any]) -> int:  # Any: tasks
    """Rounds over the grid until the target is reached; the rows of earlier runs count."""
    from collector.adaptive import refine
    from collector.grids import in_laps, spread_out
    from collector.progress import Progress
    from perfdb.systems import load_system

    if options.target <= 0 or options.what != "time" or options.cases or options.examples:
        raise InvalidInputError(
            f"--adaptive with --target {options.target} and --what {options.what}.",
            "It takes --ops, times, and a target above 0 percent.",
        )
    done = _done(options)  # refuses a log that is not to be gone on from
    system, devices = load_system(options.system), _devices(options)
    rows = _asked(read_log(_folder(options))[0]) if done else []
    by_id = {task.case.case_id: task for task in tasks}
    grid = spread_out([task.case for task in tasks], options.seed)

    def more(new: list[Json]) -> list[Any]:  # Any: tasks
        state = refine(grid, [*rows, *new], system, options.target / 100)
        print(f"{state}; {len(state.next)} next", file=sys.stderr, flush=True)
        return [by_id[case.case_id] for case in in_laps(list(state.next), system)]

    first = more([])
    if options.dry_run:
        _say(options, {"cases": len(grid), "done": len(done), "next": len(first)})
        return 0
    return _run(options, first, devices, Progress(len(tasks) - len(done)), more)


def _run(
    options: Options, todo: list[Any], devices: list[str], progress: Any, more: Any = None
) -> int:  # Any: tasks; Progress; a function that gives further tasks
    from collector.collectives import serve_group
    from collector.log import Segment
    from collector.runner import Limits, Outcome, Runner, causes, failed_groups
    from oplib.kernels import registry

    segment = Segment(_folder(options))
    outcome = Outcome()

    def limits(part: float = 1.0) -> Limits:
        left = max(options.budget * part - outcome.seconds, 1.0) if options.budget else 0.0
        return Limits(case_seconds=options.timeout, budget_seconds=left)

    alone = [task for task in todo if task.case.kind.role != "communication"]
    together = [task for task in todo if task.case.kind.role == "communication"]
    if options.cluster:
        outcome += _over_cluster(options, alone, devices, limits())
        alone = []
    for plugin in options.plugin:
        registry.extend(plugin)
    beside = 1 if more or options.what == "power" else _beside(options)
    fitting = [task for task in alone if beside > 1 and _fits(options, task, beside)]
    compiles = [_compiles(task, devices[0]) for task in fitting]
    shared = fitting if any(compiles) else []  # the device measures the others while these compile
    if shared:
        beside = min(beside, sum(compiles))
        share = max(min(len(devices) * beside / sum(compiles), 1.0), _SHARE)
        given = [
            replace(task, share=max(task.share, share)) if slow else task
            for task, slow in zip(shared, compiles, strict=True)
        ]
        with tempfile.TemporaryDirectory(prefix="collect-ops-") as folder:
            workers = _workers(options, devices, beside, folder)
            runner = Runner(segment, workers, limits(len(shared) / len(alone)), progress)
            outcome += runner.run(given)
        # what found no memory beside others may find it alone
        lacking = {(row["case_id"], row["asked"]) for row in outcome.rows if row["status"] == OOM}
        outcome.rows = [row for row in outcome.rows if row["status"] != OOM]
        tried = {(task.case.case_id, task.variant) for task in shared} - lacking
        alone = [task for task in alone if (task.case.case_id, task.variant) not in tried]
    if shared and options.budget and outcome.seconds >= options.budget:
        outcome.left += len(alone)
    elif alone:
        workers = _workers(options, devices)
        outcome += Runner(segment, workers, limits(), progress).run(alone, more)
    if together:
        group = _workers(options, ["+".join(devices)])
        outcome += Runner(segment, group, limits(), progress, serving=serve_group).run(together)
    segment.close()
    progress.end()
    failed = failed_groups(outcome.rows)
    rate = len(outcome.rows) / outcome.seconds if outcome.seconds else 0.0
    tables = _tables(options) if options.export else {}
    _say(
        options,
        {
            "rows": len(outcome.rows),
            "ok": sum(row["status"] == OK for row in outcome.rows),
            "left": outcome.left,
            "seconds": round(outcome.seconds, 1),
            "rows_per_second": round(rate, 1),
            "groups": causes(outcome.rows),
            "failed_groups": failed,
            "log": str(segment.path),
        }
        | tables,
    )
    return 1 if failed else 0


def _over_cluster(
    options: Options, tasks: list[Any], devices: list[str], limits: Any
) -> Any:  # Any: tasks, Limits of the runner, an Outcome
    from collector.cluster import run_cluster

    if options.adaptive or options.beside > 1:
        given = "--adaptive" if options.adaptive else f"--beside {options.beside}"
        raise InvalidInputError(f"{given} is for one host.", f"Leave --cluster or {given} out.")
    worker = _workers(options, devices[:1])[0]
    return run_cluster(options.cluster, tasks, worker, limits, _folder(options).resolve())


def _beside(options: Options) -> int:
    """Processes on each GPU for what is compiled."""
    cpu = _devices(options)[0].startswith("cpu")
    return options.beside or (1 if cpu else max(min(_MOST_BESIDE, (os.cpu_count() or 1) - 2), 1))


def _fits(options: Options, task: Any, beside: int) -> bool:  # Any: a Task
    """Whether a case fits into the part of a device that each of several processes has."""
    from collector.grids import memory_share
    from perfdb.systems import load_system

    return memory_share(task.case, load_system(options.system)) <= _PART / beside


def _compiles(task: Any, device: str) -> bool:  # Any: a Task
    from oplib.kernels.compiled import Compiled
    from oplib.kernels.hardware import hardware
    from oplib.kernels.registry import resolve

    case, on = task.case, hardware(device)
    with suppress(InvalidInputError):  # which becomes the status of the case
        found = resolve(
            case.op, task.variant or None, device=on, params=case.params, dims=case.dims
        )
        return isinstance(found, Compiled)
    return False


def _workers(
    options: Options, devices: list[str], beside: int = 1, folder: str = ""
) -> list[Any]:  # Any: options of workers
    """Of `beside` processes for each device, which take turns by files in a folder of this host."""
    from collector.worker import Options as WorkerOptions

    return [
        WorkerOptions(
            device=device,
            sharers=beside,
            turn=os.path.join(folder, device.replace(":", "")) if folder else "",
            system="" if device.startswith("cpu") else options.system,
            seed=options.seed,
            plugins=tuple(options.plugin),
            check=options.what in ("time", "power"),
            seconds=_CPU_SECONDS if device.startswith("cpu") else _GPU_SECONDS,
        )
        for _ in range(beside)
        for device in devices
    ]


def _done(options: Options) -> set[tuple[str, str, str]]:
    """Cases of earlier runs that are not measured again, by what was asked for."""
    if options.out is None and options.dry_run:
        return set()
    folder = _folder(options)
    rows = latest(_asked(read_log(folder)[0])) if folder.exists() else {}
    if rows and not options.resume:
        raise InvalidInputError(
            f"{folder} has a log of {len(rows)} cases.", "Give --resume to go on, or another --out."
        )
    return {
        key
        for key, row in rows.items()
        if row["status"] == OK
        or not (options.retry_failed or (row["status"] == OOM and row.get("sharers", 1) > 1))
    }


def _asked(rows: Iterable[Json]) -> list[Json]:
    """Rows under the variant that was asked for, which is empty where any would do."""
    return [{**row, "variant": row["asked"]} for row in rows if "asked" in row]


def _devices(options: Options) -> list[str]:
    if options.device.startswith("cpu"):
        return options.device.split(",")
    if options.dry_run or options.list or options.cluster:
        return [f"cuda:{number}" for number in (options.device or "0").split(",")]
    import torch

    if not torch.cuda.is_available():
        if options.device:
            raise InvalidInputError(
                f"--device is {options.device}, and torch sees no GPU.", "Give --device cpu."
            )
        return ["cpu"]
    numbers = options.device.split(",") if options.device else range(torch.cuda.device_count())
    return [f"cuda:{number}" for number in numbers]


def _folder(options: Options) -> Path:
    if options.out is None:
        raise InvalidInputError("No folder of the log is named.", "Give --out DIR.")
    found: Path = options.out
    return found


def _kernels(options: Options) -> int:
    import torch

    from oplib.kernels.hardware import hardware
    from oplib.kernels.registry import dump, extend, slots, why

    for plugin in options.plugin:
        extend(plugin)
    gpu = options.device != "cpu" and torch.cuda.is_available()
    here = hardware("cuda" if gpu else "cpu")
    if options.json:
        print(
            json.dumps({"device": str(here), "slots": {name: why(name, here) for name in slots()}})
        )
    else:
        print(f"on {here}:")
        print("\n".join(dump(here)))
    return 0


def _verify(options: Options) -> int:
    count, faults = verify(_folder(options))
    torn = [str(fault) for fault in faults if fault.torn]
    damaged = [str(fault) for fault in faults if not fault.torn]
    _say(options, {"rows": count, "torn": torn, "damaged": damaged})
    return 1 if damaged else 0


def _tables(options: Options) -> Json:
    from collector.export import export

    written = export([_folder(options)], options.export)
    return {"tables": {str(one.path): one.rows for one in written}}


def _say(options: Options, result: Json) -> None:
    """The result: JSON on stdout, or lines that a person reads."""
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, inner in value.items():
                told = (
                    "; ".join(f"{n} {cause}" for cause, n in inner.items())
                    if isinstance(inner, dict)
                    else inner
                )
                print(f"  {key}: {told}")
        else:
            print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
