"""The same model gives the same bytes: twice in one process, and in processes with other hash seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracer import small_models
from tests.tracer.small_models import each
from tracer import analysis

ROOT = Path(__file__).parents[2]


def text(found: dict) -> str:
    return json.dumps({k: v for k, v in found.items() if k != "timing_s"}, indent=1)


@pytest.mark.parametrize("name", each(["qwen3_moe", "deepseek_v32", "nemotron_h"]))
def test_two_runs_are_identical(name):
    """Graphs included: only timing_s may differ."""
    options = analysis.Options(with_graphs=True)
    first, second = (text(analysis.analyse(small_models.folder(name), options)) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_the_hash_seed_does_not_matter():
    """No order comes out of a set of texts: another process with another seed gives what this one does."""
    folders = [
        small_models.folder(n) for n in ("qwen3_moe", "llama4", "qwen3_next", "deepseek_v32")
    ]
    program = (
        "import json, sys\n"
        "from tracer import analysis\n"
        "for path in sys.argv[1:]:\n"
        "    found = analysis.analyse(path, analysis.Options(with_graphs=True))\n"
        "    del found['timing_s']\n"
        "    print(json.dumps(found, indent=1), end='\\0')\n"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "4242"
    done = subprocess.run(
        [sys.executable, "-c", program, *folders],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = analysis.Options(with_graphs=True)
    here = [text(analysis.analyse(folder, options)) for folder in folders]
    assert done.stdout.split("\0")[:-1] == here
