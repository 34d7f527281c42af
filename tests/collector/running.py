"""How the tests start `collect-ops` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from oplib.case import Case, Plan

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "tests.collector.plugin"


def gemm(m: int, n: int = 16, k: int = 8) -> Case:
    return Case(op="gemm", params={"n": n, "k": k, "dtype": "float32"}, dims={"m": m})


def write_plan(path: Path, cases: list[Case]) -> Path:
    plan = Plan(system="h200_sxm", backend="torch", version="", model="test", cases=tuple(cases))
    path.write_text(plan.to_text(), encoding="utf-8")
    return path


def command(out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "collector", "--device", "cpu", "--out", str(out), "--json",
        "--plugin", PLUGIN, *more,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def collect(out: Path, *more: str) -> tuple[int, dict, str]:
    """(exit status, the JSON it printed, what it said)."""
    done = subprocess.run(
        command(out, *more),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    printed = json.loads(done.stdout) if done.stdout.strip() else {}
    return done.returncode, printed, done.stderr
