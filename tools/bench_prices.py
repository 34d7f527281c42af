"""Print what prices cost: op prices per second, static configurations per second, the whole command, memory.

The model is the saved report that is named, else a trace of the published Qwen3-32B where that is at hand, else of the
example. Where aiconfigurator-core is installed its tables are priced and its own engine runs beside, one configuration
at a time as its interface has it. `first` includes what a database does once: it reads tables and estimates knots.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy

from models.layout import Layout
from models.outcome import stages_of
from models.pricing import price
from models.source import Source, read_source
from models.steps import EXACT
from models.workload import Workload, grid
from oplib.errors import PerfDataNotAvailableError
from oplib.registry import kind
from perfdb.database import PerfDatabase
from perfdb.foreign import data_folder

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT.parent / "shared" / "model_configs" / "Qwen--Qwen3-32B" / "config.json"
LAYOUTS = tuple(Layout(tp=tp) for tp in (1, 2, 4, 8))
#: 4 layouts x 50 batches x 25 prompt lengths x 20 answer lengths: 100,000 configurations.
SWEEP = {
    "batch": tuple(range(1, 51)),
    "isl": tuple(range(256, 6401, 256)),
    "osl": tuple(range(64, 1281, 64)),
    "prefix": (0,),
}
LIMITS = {
    "op prices, million/s": 8.0,
    "100,000 configurations, s": 1.0,
    "whole command, s": 0.6,
    "first whole command, s": 1.0,
}


def report_of(path: str | None) -> Path:
    """The file of a saved report: the one named, or of a model that is traced now."""
    if path:
        return Path(path)
    model = PUBLISHED if PUBLISHED.exists() else ROOT / "examples" / "tiny-moe"
    target = Path(tempfile.mkdtemp()) / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "tracer.cli", str(model), "--json"], capture_output=True, text=True
    )
    done.check_returncode()
    target.write_text(done.stdout, encoding="utf-8")
    return target


def timed(work: Callable[[], object], repeat: int = 5) -> float:
    """Seconds of the fastest of several runs: what other work on the machine disturbs least."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def op_prices(source: Source, db: PerfDatabase, *, count: int, threads: int) -> float:
    """Million prices per second: every op of both phases at `count` random workloads each."""
    random = numpy.random.default_rng(0)
    b, s, p = (random.integers(1, most, count) for most in (257, 4097, 8193))
    one = numpy.ones_like(s)
    asked = [(op, s) for op in source.op_list.ops("context")]
    asked += [(op, one) for op in source.op_list.ops("generation")]
    chunks = numpy.array_split(numpy.arange(count), max(count // 16_384, 1))  # stay in the cache

    def work(chunk: numpy.ndarray) -> None:
        for op, new in asked:
            db.price(op.kind, op.params, op.dims_at(b=b[chunk], s=new[chunk], p=p[chunk]))

    def all_chunks() -> None:
        if threads == 1:
            for chunk in chunks:
                work(chunk)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, chunks))

    all_chunks()
    return len(asked) * count / timed(all_chunks, 3) / 1e6


def sweep(source: Source, db: PerfDatabase) -> int:
    """Price the whole sweep; how many configurations it has."""
    workload, found = grid(**SWEEP), 0
    for layout in LAYOUTS:
        priced = price(stages_of(source, layout), db, workload)
        found += priced.request.latency.size
        priced.tokens_per_s_per_gpu(gpus=layout.num_gpus)
    return found


def scattered(source: Source, db: PerfDatabase, count: int) -> None:
    """As many configurations that share no grid."""
    random = numpy.random.default_rng(1)
    sizes = {
        name: random.integers(1, most, count)
        for name, most in (("batch", 257), ("isl", 8193), ("osl", 1025))
    }
    priced = price([source.op_list], db, Workload(**sizes))
    priced.tokens_per_s_per_gpu(gpus=1)


def reference_engine(backend: str, system: str, version: str, most: int = 400) -> float:
    """Configurations per second of the reference's compiled engine on its own op list of Qwen3-32B."""
    from aiconfigurator_core.sdk.engine import EngineHandle

    engine = EngineHandle.compile("Qwen/Qwen3-32B", system, backend, backend_version=version)
    places = [(b, s, o) for b in SWEEP["batch"] for s in SWEEP["isl"] for o in SWEEP["osl"]][::61]

    def work() -> None:
        for batch, isl, osl in places[:most]:
            engine.run_static(batch_size=batch, isl=isl, osl=osl, prefix=0)

    work()
    return min(most, len(places)) / timed(work, 3)


def step_error(source: Source, db: PerfDatabase) -> float:
    """The largest error of TPOT from the nodes of long sweeps, next to the sum over every step."""
    random = numpy.random.default_rng(2)
    count, worst = 48, 0.0
    sizes = {
        name: random.integers(2, most, count)
        for name, most in (("batch", 65), ("isl", 16_385), ("osl", 4097))
    }
    far = Workload(
        batch=1, isl=EXACT * 2, osl=2
    )  # widens the range of lengths beyond the exact sum
    wide = {name: numpy.append(size, getattr(far, name)) for name, size in sizes.items()}
    rough = price([source.op_list], db, Workload(**wide)).tpot.latency[:count]
    for place in range(count):
        one = {name: int(size[place]) for name, size in sizes.items()}
        exact = price([source.op_list], db, Workload(**one)).tpot.latency[0]
        worst = max(worst, abs(rough[place] / exact - 1))
    return worst


def command_seconds(report: Path, backend: str, *, first: bool = False) -> tuple[float, float]:
    """Wall and processor seconds of `price-model` on a saved report, the medians of 15 runs.

    `first` runs have nothing that earlier ones kept, and are five.
    """
    argv = [sys.executable, "-m", "models.cli", str(report), "--tp", "4"]
    argv += ["--backend", backend] if backend else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = []
    for _ in range(5 if first else 15):
        with tempfile.TemporaryDirectory() as empty:
            if first:
                environment["XDG_CACHE_HOME"] = empty
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(argv, capture_output=True, check=True, env=environment)
            wall = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        runs.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return median(wall for wall, _ in runs), median(cpu for _, cpu in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", help="a file that trace-model --json wrote")
    parser.add_argument("--system", default="h200_sxm")
    parser.add_argument("--backend", default="trtllm")
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args()
    try:
        data_folder()
        backend = options.backend
    except PerfDataNotAvailableError as error:
        print(error, file=sys.stderr)
        backend = ""
    path = report_of(options.report)
    source = read_source(str(path), lambda _: {})
    db = PerfDatabase.load(system=options.system, backend=backend)
    start = time.perf_counter()
    count = sweep(source, db)
    rows = {f"first {count:,} configurations, s": time.perf_counter() - start}
    rows[f"{count:,} configurations, s"] = timed(lambda: sweep(source, db))
    scattered(source, db, 100_000)
    rows["100,000 scattered ones, tp 1, s"] = timed(lambda: scattered(source, db, 100_000))
    for threads in (1, 2):
        label = "op prices, million/s" + (f", {threads} threads" if threads > 1 else "")
        rows[label] = op_prices(source, db, count=131_072, threads=threads)
    rows["largest error of TPOT by nodes"] = step_error(source, db)
    rows["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for label, first in (("whole command", False), ("first whole command", True)):
        rows[f"{label}, s"], rows[f"{label}, processor s"] = command_seconds(
            path, backend, first=first
        )
    if backend:
        table = db.table(kind("gemm"))
        version = "" if isinstance(table, str) else table.path.parts[-2]
        rows["reference's engine, configurations/s"] = reference_engine(
            backend, options.system, version
        )
        rows["ours, configurations/s"] = count / rows[f"{count:,} configurations, s"]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"prices of {source.name} on {options.system}, {backend or 'no tables'}")
    for label, value in rows.items():
        limit = f"  (aim {LIMITS[label]:g})" if label in LIMITS else ""
        print(f"{label:44} {value:12,.3g}{limit}")


if __name__ == "__main__":
    main()
