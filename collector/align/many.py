"""align-model over a folder of configs on this host's GPU, and the rows of all of them together.

    python -m collector.align.many CONFIGS OUT [--models NAMES] [--budget SECONDS] [--jobs N] [-- ARGUMENTS]

CONFIGS holds a folder per model with its config.json. First every model is compiled, several at a time, into torch's
cache; then each is measured, and again by itself where it found no memory beside others. Writes OUT/alignment.json (all
rows) and OUT/log (rows of ops, of which `collect-ops --export` makes tables); a second run goes on from there. What
does not end in the budget is left out and said. ARGUMENTS are those of align-model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "2",
}

from collector.align import cli
from collector.align.session import key_of  # loads torch once, before processes are forked
from collector.log import read_log
from collector.turn import FileTurn, Turn
from collector.worker import lacked_memory

Json = dict[str, Any]  # Any: an object that becomes JSON
COMPILING = 0.45  # of the budget, at most
FORK = multiprocessing.get_context("fork")  # nothing here touches the GPU before


def child(model: Path, given: list[str], folder: Path, ending: str, turn: Turn) -> None:
    """align-model on a config, its output in files; `turn` is held while the GPU is used for times."""
    for stream, name in ((1, ending), (2, f"{ending}.err")):
        file = os.open(folder / f"{model.name}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
    sys.exit(cli.main([str(model), "--json", *given], turn=turn))


def run_all(
    models: list[Path], start: Callable[[Path], Any], most: int, end: float, word: str
) -> None:
    """Start a process for each model, at most so many at a time, and say when each ends."""
    waiting, running = list(models), dict[Any, tuple[str, float]]()
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < most:
            model = waiting.pop(0)
            process = start(model)
            process.start()
            running[process] = model.name, time.monotonic()
        for process in [p for p in running if not p.is_alive()]:
            name, began = running.pop(process)
            took = time.monotonic() - began
            print(f"{word} {name}: {took:.0f} s, status {process.exitcode}", flush=True)
        time.sleep(0.1)
    for process, (name, _) in running.items():
        process.kill()
        process.join()
        print(f"{word} {name}: broken off", flush=True)
    for model in waiting:
        print(f"{word} {model.name}: left out", flush=True)


def rows_in(folder: Path, models: list[Path]) -> list[Json]:
    """Rows of the log, also those of a model that was broken off, and what failed."""
    logged = [row["result"] for row in read_log(folder / "log")[0] if row["what"] == "align"]
    for model in models:
        path = folder / f"{model.name}.json"
        found = json.loads(path.read_text() or "[]") if path.exists() else []
        if isinstance(found, dict):
            print(f"{model.name}: {found}"[:500])
        else:
            logged += [row for row in found if row["failed"]]
    return list({key_of(row): row for row in logged}.values())


def without_memory(folder: Path, model: Path) -> bool:
    """Whether something of the model failed for want of the device's memory."""
    path = folder / f"{model.name}.json"
    return path.exists() and lacked_memory(path.read_text())


def main() -> int:
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("configs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--models", default="", help="names of folders, or parts of them, joined by commas"
    )
    parser.add_argument("--budget", type=float, default=1e6, help="seconds")
    parser.add_argument(
        "--jobs", type=int, default=6, help="models that compile at a time; 0: none before"
    )
    parser.add_argument(
        "--beside", type=int, default=1,
        help="models that run at a time: they compile side by side, and one of them at a time uses the GPU",
    )  # fmt: skip
    options = parser.parse_args(given[:split])
    more, out = given[split + 1 :], options.out
    (out / "log").mkdir(parents=True, exist_ok=True)
    names = [name for name in options.models.split(",") if name]
    every = sorted(path.parent for path in options.configs.glob("*/config.json"))
    models = [m for name in names for m in every if name in m.name] if names else every
    began = time.monotonic()

    def compiling(model: Path) -> Any:
        arguments = (model, ["--compile-only", *more], out, "compiled", Turn())
        return FORK.Process(target=child, args=arguments)

    def measuring(sharers: int) -> Callable[[Path], Any]:
        turn = FileTurn(out / "turn", sharers)

        def start(model: Path) -> Any:
            arguments = (model, ["--out", str(out / "log"), *more], out, "json", turn)
            return FORK.Process(target=child, args=arguments)

        return start

    if options.jobs:
        run_all(models, compiling, options.jobs, began + COMPILING * options.budget, "compiled")
    end = began + options.budget
    run_all(models, measuring(options.beside), options.beside, end, "measured")
    if options.beside > 1:
        run_all(
            [m for m in models if without_memory(out, m)], measuring(1), 1, end, "measured alone"
        )
    rows = rows_in(out, models)
    (out / "alignment.json").write_text(json.dumps(rows), encoding="utf-8")
    failed = sum(bool(row["failed"]) for row in rows)
    print(f"{len(rows)} rows, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
