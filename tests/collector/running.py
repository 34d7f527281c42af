"""How the tests start `collect-ops`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from unittest import mock

from collector.cli import main
from oplib.case import Case, Plan
from oplib.kernels.registry import slot, slots

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
    return {**os.environ, "PYTHONPATH": path}


def collect(out: Path, *more: str) -> tuple[int, dict, str]:
    """(exit status, the JSON it printed, what it said) of the command, run in this process; its workers have their own.

    What the plug-in adds to the registry is taken out again.
    """
    known = {name: set(slot(name).variants) for name in slots()}
    printed, said = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment()),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
    ):
        status = main(command(out, *more)[3:])
    for name, before in known.items():
        for added in set(slot(name).variants) - before:
            del slot(name).variants[added]
    text = printed.getvalue()
    return status, json.loads(text) if text.strip() else {}, said.getvalue()
