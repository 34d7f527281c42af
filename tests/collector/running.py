"""How the tests start `collect-ops`."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

from collector.cli import main
from oplib.case import Case, Plan
from oplib.kernels.registry import slots

PLUGIN = "tests.collector.plugin"


def gemm(m: int, n: int = 16, k: int = 8) -> Case:
    return Case(op="gemm", params={"n": n, "k": k, "dtype": "float32"}, dims={"m": m})


def write_plan(path: Path, cases: list[Case]) -> Path:
    plan = Plan(system="h200_sxm", backend="torch", version="", model="test", cases=tuple(cases))
    path.write_text(plan.to_text(), encoding="utf-8")
    return path


@contextlib.contextmanager
def registry_kept() -> Iterator[None]:
    """What the plug-in adds to the registry inside is taken out again."""
    before = [(one, set(one.variants)) for one in slots().values()]
    try:
        yield
    finally:
        for one, known in before:
            for added in one.variants.keys() - known:
                del one.variants[added]


def collect(out: Path, *more: str) -> tuple[int, dict, str]:
    """(exit status, the JSON it printed, what it said) of the command, run in this process; its workers have their
    own."""
    given = ["--device", "cpu", "--out", str(out), "--json", "--plugin", PLUGIN, *more]
    printed, said = io.StringIO(), io.StringIO()
    with (
        registry_kept(),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
    ):
        status = main(given)
    text = printed.getvalue()
    return status, json.loads(text) if text.strip() else {}, said.getvalue()
