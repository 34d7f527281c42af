"""Print what a trace costs: seconds per step, memory, the whole command, its help, the page, and what stays unmatched.

Without arguments: the example and, where they are at hand, the published configs. Each model runs in a process of its
own, several times; `first` is what a user waits for, `cpu` the processor seconds of that call, which other work on
the machine disturbs less. Seconds leave the imports out unless the row says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT.parent / "shared" / "model_configs"
EXAMPLE = ROOT / "examples" / "tiny-moe"
STEPS = ("resolve", "build", "trace", "match")
LIMITS = {
    "DeepSeek-V3, both phases, s": 1.5,
    "median model, both phases, s": 0.8,
    "slowest model, both phases, s": 5.0,
    "largest peak memory, GB": 1.2,
    "trace-model on Qwen3-8B, whole command, s": 5.0,
    "trace-model --help, s": 0.3,
}
Row = dict[str, Any]  # Any: a JSON object

# Runs in the process of one model: imports, the timed calls, and last the page, which needs a report of its own.
WORKER = """
import json, resource, sys, time
from oplib.errors import UnsupportedModelError
from tracer.analysis import Options, analyse
from tracer.report.html import render_html
path, repeat = sys.argv[1], int(sys.argv[2])
calls = []
for _ in range(repeat):
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        report = analyse(path, Options())
    except UnsupportedModelError as error:
        sys.exit(print(json.dumps({"skipped": error.message})))
    seconds = {"call": time.perf_counter() - start, "cpu": time.process_time() - cpu_start}
    calls.append({**report["timing_s"], **seconds})
peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pictured = analyse(path, Options(with_graphs=True))
start = time.perf_counter()
page = render_html(pictured)
page_s = time.perf_counter() - start
kept = ("situation", "architecture", "full_depth", "conservation", "versions", "unsupported")
print(json.dumps({key: report[key] for key in kept} | {
    "calls": calls, "peak_gb": peak_kib * 1024 / 1e9, "page_s": page_s, "page_bytes": len(page.encode())}))
"""


def default_models() -> list[str]:
    """The example and the published configs."""
    folders = [EXAMPLE, *sorted(c.parent for c in PUBLISHED.glob("*/config.json"))]
    return [str(folder) for folder in folders]


def measure(model: str, repeat: int) -> Row:
    """One model: seconds of each call, peak memory, the page, and how the matching ended."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, model, str(repeat)], capture_output=True, text=True, cwd=ROOT
    )
    name = Path(model).name.partition("--")[2] or Path(model).name
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        return {"model": name, "error": lines[-1]}
    row: Row = {"model": name, **json.loads(done.stdout)}
    if "skipped" in row:
        return row
    row["first_s"] = row["calls"][0]["call"]
    row["median_s"] = statistics.median(call["call"] for call in row["calls"])
    row["primitives"] = sorted({entry["primitive"] for entry in row.pop("unsupported")})
    return row


def command_s(arguments: list[str], repeat: int) -> float:
    """Median seconds of the command, start to exit, run as a module: the installed script does the same."""
    command = [sys.executable, "-m", "tracer.cli", *arguments]
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def traced(rows: list[Row]) -> list[Row]:
    """The models that were traced."""
    return [row for row in rows if "calls" in row]


def figures(rows: list[Row], repeat: int) -> dict[str, float]:
    """The numbers that have a limit; those whose model is not at hand are left out."""
    good = traced(rows)
    by_name = {row["model"]: row for row in good}
    found: dict[str, float] = {}
    if "DeepSeek-V3" in by_name:
        found["DeepSeek-V3, both phases, s"] = by_name["DeepSeek-V3"]["first_s"]
    if good:
        firsts = [row["first_s"] for row in good]
        found["median model, both phases, s"] = statistics.median(firsts)
        found["slowest model, both phases, s"] = max(firsts)
        found["largest peak memory, GB"] = max(row["peak_gb"] for row in good)
    whole = next(PUBLISHED.glob("*--Qwen3-8B"), None)
    if whole is not None:
        found["trace-model on Qwen3-8B, whole command, s"] = command_s([str(whole)], repeat)
    found["trace-model --help, s"] = command_s(["--help"], 5)
    return found


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, str]:
    """Where the numbers were taken."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "cpu": f"{cpu or platform.processor() or platform.machine()}, {cores()} cores, load {load} at the start",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def model_lines(rows: list[Row]) -> Iterator[str]:
    """The table of models."""
    head = "".join(f"{step:>8}" for step in ("first", "median", "cpu", *STEPS))
    yield f"{head}{'GB':>6}{'page kB':>9}{'page s':>7}  {'exact':6}{'situation':10} model"
    for row in sorted(rows, key=lambda r: r.get("first_s", float("inf"))):
        if "calls" not in row:
            ending = "failed" if "error" in row else "skipped"
            yield f"{ending:>8}  {row['model']}: {row.get('error') or row['skipped']}"
            continue
        steps = [row["calls"][0].get(step, 0.0) for step in ("cpu", *STEPS)]
        seconds = "".join(f"{x:8.2f}" for x in (row["first_s"], row["median_s"], *steps))
        size = f"{row['peak_gb']:6.2f}{row['page_bytes'] / 1e3:9.0f}{row['page_s']:7.2f}"
        exact = "yes" if row["conservation"]["exact"] else "NO"
        yield f"{seconds}{size}  {exact:6}{row['situation']:10} {row['model']}"


def summary(rows: list[Row], found: dict[str, float]) -> Iterator[str]:
    """The numbers with a limit, then what stays open."""
    good = traced(rows)
    for name, value in found.items():
        verdict = "ok" if value <= LIMITS[name] else "OVER"
        yield f"{value:8.2f}  of {LIMITS[name]:3.1f}  {verdict:5} {name}"
    nodes = [row["conservation"]["nodes"] for row in good]
    total, open_ = sum(n["total"] for n in nodes), sum(n["primitive"] for n in nodes)
    exact = sum(row["conservation"]["exact"] for row in good)
    yield f"{exact} of {len(good)} traced models conserve weights, FLOPs and nodes exactly"
    yield f"{total - open_} of {total} traced nodes are claimed or free"
    for row in good:
        if row["primitives"]:
            yield f"primitives of {row['model']}: {', '.join(row['primitives'])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="model paths")
    parser.add_argument("--repeat", type=int, default=2, help="calls per model in one process (2)")
    parser.add_argument("--json", action="store_true", help="print one object")
    arguments = parser.parse_args()
    models = arguments.models or default_models()
    here, rows = machine(), []
    for number, model in enumerate(models, 1):
        print(f"{number}/{len(models)} {Path(model).name}", file=sys.stderr, flush=True)
        rows.append(measure(model, arguments.repeat))
    found = figures(rows, arguments.repeat)
    here |= next((row["versions"] for row in rows if "versions" in row), {})
    if arguments.json:
        print(
            json.dumps(
                {"machine": here, "limits": LIMITS, "figures": found, "models": rows}, indent=1
            )
        )
    else:
        print(
            "\n".join(
                [*(f"{key}: {value}" for key, value in here.items()), "", *model_lines(rows), ""]
            )
        )
        print("\n".join(summary(rows, found)))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
