"""Run align-model over a folder of configs on this host's GPU and put the rows together.

    python tools/alignment.py CONFIGS OUT [--models NAMES] [--budget SECONDS] [--jobs N] [-- OPTIONS OF align-model]

CONFIGS holds a folder per model with its config.json. First every model is compiled, several at a time, into torch's cache;
then each is measured alone. Writes OUT/alignment.json (all rows) and OUT/log (rows of ops, which `collect-ops --export` makes
tables of). A second run goes on from OUT/log. What does not end in the budget is left out and said.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Json = dict[str, Any]  # Any: an object that becomes JSON
COMPILING = 0.45  # of the budget, at most
LEAST = 5.0  # seconds below which nothing is started


def command(model: Path, more: list[str]) -> list[str]:
    """align-model on a config."""
    return [sys.executable, "-m", "collector.align", str(model), "--json", *more]


def environment(**more: str) -> dict[str, str]:
    """That of a process that does not reach for the Hub."""
    own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, **own, **more}


def compile_all(models: list[Path], options: argparse.Namespace, end: float) -> None:
    """Fill torch's cache, `jobs` models at a time."""
    waiting, running = list(models), dict[subprocess.Popen[bytes], tuple[str, float]]()
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < options.jobs:
            model = waiting.pop(0)
            log = (options.out / f"{model.name}.compile").open("wb")
            started = subprocess.Popen(
                command(model, ["--compile-only", *options.more]), stdout=subprocess.DEVNULL, stderr=log,
                env=environment(TORCHINDUCTOR_COMPILE_THREADS="2", OMP_NUM_THREADS="1"),
            )  # fmt: skip
            running[started] = model.name, time.monotonic()
        for process in [p for p in running if p.poll() is not None]:
            name, began = running.pop(process)
            print(
                f"compiled {name}: {time.monotonic() - began:.0f} s, status {process.returncode}",
                flush=True,
            )
        time.sleep(0.2)
    for process, (name, _) in running.items():
        process.kill()
        process.wait()
        print(f"compiled {name} in part", flush=True)


def measure(models: list[Path], options: argparse.Namespace, end: float) -> Iterator[Json]:
    """The rows of each model, one after the other."""
    for model in models:
        left = end - time.monotonic()
        if left < LEAST:
            print(f"left out {model.name}", flush=True)
            continue
        began = time.monotonic()
        log = (options.out / f"{model.name}.err").open("wb")
        try:
            done = subprocess.run(
                command(model, ["--out", str(options.out / "log"), *options.more]), stdout=subprocess.PIPE, stderr=log,
                env=environment(), timeout=min(left, 1e6), check=False,
            )  # fmt: skip
            found = json.loads(done.stdout or b"[]")
        except subprocess.TimeoutExpired:
            found = []
        rows = found if isinstance(found, list) else []
        failed = sum(bool(row["failed"]) for row in rows)
        print(
            f"{model.name}: {len(rows)} rows, {failed} failed, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        if isinstance(found, dict):
            print(f"  {found}"[:400], flush=True)
        yield from rows


def from_log(folder: Path) -> list[Json]:
    """Rows that are in the log: also those of a model that was broken off."""
    sys.path.insert(0, str(ROOT))
    from collector.log import read_log

    rows = [row["result"] for row in read_log(folder)[0] if row["what"] == "align"]
    return list({(r["model"], r["submodule"], r["phase"], r["workload"]): r for r in rows}.values())


def main() -> int:
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("configs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--models", default="", help="names of folders, or parts of them, joined by commas"
    )
    parser.add_argument("--budget", type=float, default=1e9, help="seconds")
    parser.add_argument(
        "--jobs", type=int, default=6, help="models that compile at a time; 0: none before"
    )
    options = parser.parse_args(given[:split])
    options.more = given[split + 1 :]
    options.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in options.models.split(",") if name]
    every = sorted(path.parent for path in options.configs.glob("*/config.json"))
    models = [m for name in names for m in every if name in m.name] if names else every
    start = time.monotonic()
    if options.jobs:
        compile_all(models, options, start + COMPILING * options.budget)
    failed = [row for row in measure(models, options, start + options.budget) if row["failed"]]
    rows = from_log(options.out / "log") if (options.out / "log").is_dir() else []
    (options.out / "alignment.json").write_text(json.dumps([*rows, *failed]), encoding="utf-8")
    print(f"{len(rows)} rows, {len(failed)} failed, {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
