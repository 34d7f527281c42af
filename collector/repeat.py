"""How well two runs agree on the cases that both measured."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, TypeAlias

from collector.log import OK, latest, read_log

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
