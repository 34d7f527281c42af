"""Print the seconds `trace-model --json` takes for each model path.

Without arguments: the examples and, where they are at hand, the published configs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG_FOLDERS = (ROOT / "examples", ROOT.parent / "shared" / "model_configs")


def default_models() -> list[str]:
    return [
        str(c.parent) for folder in CONFIG_FOLDERS for c in sorted(folder.glob("*/config.json"))
    ]


def measure(model: str) -> str:
    """One row: seconds of the whole process, seconds inside, the model and how it ended."""
    start = time.perf_counter()
    command = [str(Path(sys.executable).with_name("trace-model")), model, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    wall_s = time.perf_counter() - start
    inside, ending = "-", f"exit {done.returncode}"
    if done.returncode == 0:
        report = json.loads(done.stdout)
        inside, ending = f"{report['timing_s']['total']:.2f}", report["situation"]
    return f"{wall_s:8.2f} {inside:>8} {ending:9} {Path(model).name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="model paths")
    models = parser.parse_args().models or default_models()
    print(f"{len(models)} models, one after the other", file=sys.stderr)
    print(f"{'wall s':>8} {'trace s':>8} {'situation':9} model")
    for model in models:
        print(measure(model), flush=True)
    return 0 if models else 1


if __name__ == "__main__":
    sys.exit(main())
