"""How well two runs agree on the cases that both measured, and which cases a second run should repeat.

python -m collector.repeat LOG [LOG ...] --count 200 > plan.jsonl
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from collector.log import OK, latest, read_log
from oplib.case import Case, Plan

Json: TypeAlias = dict[str, Any]  # Any: an object that becomes JSON


def compare(first: Path, second: Path) -> Json:
    """Deviations of the second run's times from the first's: count, median, share within 10 %, and the worst."""
    logs = [latest(read_log(folder)[0]) for folder in (first, second)]
    pairs = [
        (row, logs[1][key])
        for key, row in logs[0].items()
        if key[0] == "time" and key in logs[1] and row["status"] == logs[1][key]["status"] == OK
    ]
    away = [(abs(b["timing"]["latency"] / a["timing"]["latency"] - 1), a) for a, b in pairs]
    if not away:
        return {"cases": 0}
    deviations = sorted(one for one, _ in away)
    worst = sorted(away, key=lambda pair: -pair[0])[:10]
    return {
        "cases": len(away),
        "median_deviation": statistics.median(deviations),
        "within_10_percent": sum(one <= 0.1 for one in deviations) / len(deviations),
        "p95_deviation": deviations[min(int(0.95 * len(deviations)), len(deviations) - 1)],
        "worst": [
            {"op": row["op"], "variant": row["variant"], "params": row["params"], "dims": row["dims"],
             "deviation": one, "latency_ms": row["timing"]["latency"]}
            for one, row in worst
        ],
    }  # fmt: skip


def sampled(folders: Sequence[Path], count: int, seed: int) -> Plan:
    """A plan of `count` cases drawn from those that were timed with the variant that is taken unasked."""
    rows = [
        row
        for folder in folders
        for key, row in latest(read_log(folder)[0]).items()
        if key[0] == "time" and row["status"] == OK and not row["asked"]
    ]
    chosen = random.Random(seed).sample(rows, min(count, len(rows)))
    cases = tuple(Case(op=row["op"], params=row["params"], dims=row["dims"]) for row in chosen)
    return Plan(system="", backend="torch", version="", model="a sample", cases=cases)


def main() -> int:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=sampled.__doc__)
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(sampled(options.logs, options.count, options.seed).to_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
