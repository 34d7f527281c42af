"""How well two runs agree on what both measured, and which cases a second run should repeat.

python -m collector.repeat LOG [LOG ...] --count 200 > plan.jsonl
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from collector.log import OK, latest, read_log
from oplib.case import Case, Plan
from oplib.errors import InvalidInputError

Json: TypeAlias = dict[str, Any]  # Any: an object that becomes JSON
_COLUMNS = ("op_name", "kernel_source", "latency", "case_id")  # of a table that is compared
_UNSAID = ("0", "0.0", "False", "none")  # sizes that most cases have


def compare(first: Path, second: Path) -> Json:
    """Deviations of the second run's times from the first's, whole and by op, and the worst of them.

    A run is the folder of a log, or of tables made of one. What both timed with the same kernel counts. `bias` is the
    median with its sign.
    """
    before, after = _times(first), _times(second)
    away = {
        key: after[key]["latency_ms"] / row["latency_ms"] - 1
        for key, row in before.items()
        if key in after
    }
    if not away:
        return {"cases": 0}
    ops: dict[str, list[float]] = {}
    for key, one in away.items():
        ops.setdefault(before[key]["op"], []).append(one)
    worst = sorted(away, key=lambda key: -abs(away[key]))[:10]
    return _deviations(away.values()) | {
        "ops": {op: _deviations(found) for op, found in sorted(ops.items())},
        "worst": [before[key] | {"deviation": away[key]} for key in worst],
    }


def _deviations(found: Iterable[float]) -> Json:
    signed = sorted(found)
    sizes = sorted(map(abs, signed))
    return {
        "cases": len(sizes),
        "median_deviation": statistics.median(sizes),
        "bias": statistics.median(signed),
        "within_10_percent": sum(one <= 0.1 for one in sizes) / len(sizes),
        "p95_deviation": sizes[min(int(0.95 * len(sizes)), len(sizes) - 1)],
    }


def _times(folder: Path) -> dict[tuple[str, str], Json]:
    """What was timed, by case and kernel. Raises InvalidInputError where nothing was."""
    found: dict[tuple[str, str], Json] = {}

    def keep(case: str, op: str, variant: str, sizes: Json, latency: str | float) -> None:
        try:
            ms = float(latency)
        except (TypeError, ValueError):
            raise InvalidInputError(
                f"{folder}: the latency of {op} {case} is {latency!r}.", "It takes milliseconds."
            ) from None
        found[case, variant] = {"op": op, "variant": variant, "sizes": sizes, "latency_ms": ms}

    for path in sorted(folder.glob("*_perf.txt")):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            if lacking := [name for name in _COLUMNS if name not in names]:
                raise InvalidInputError(
                    f"{path} lacks {', '.join(lacking)}.",
                    "Tables that --export wrote have them: case, kernel and time of each row.",
                )
            sized = names[names.index("kernel_source") + 1 : names.index("latency")]
            for row in reader:
                sizes = {name: row[name] for name in sized}
                keep(row["case_id"], row["op_name"], row["kernel_source"], sizes, row["latency"])
    for (what, *_), row in latest(read_log(folder)[0]).items():
        if what == "time" and row["status"] == OK:
            sizes, latency = row["params"] | row["dims"], row["timing"]["latency"]
            keep(row["case_id"], row["op"], row["variant"], sizes, latency)
    if not found:
        raise InvalidInputError(
            f"{folder} has no times to compare.",
            "Give the folder of a log (--out of a run) or of tables (--export).",
        )
    return found


def told(found: Json) -> str:
    """What `compare` found, for people."""
    if not found["cases"]:
        return "No case was timed in both runs with the same kernel."
    form = "{:<22} {:>6} {:>8} {:>8} {:>8} {:>11}"
    lines = [form.format("", "cases", "median", "bias", "< 10 %", "95 % below")]
    for name, one in {**found["ops"], "all": found}.items():
        shares = [
            f"{one[key]:.1%}" for key in ("median_deviation", "within_10_percent", "p95_deviation")
        ]
        lines.append(form.format(name, one["cases"], shares[0], f"{one['bias']:+.1%}", *shares[1:]))
    lines.append("\nfarthest apart")
    for one in found["worst"]:
        sizes = {
            name: text for name, size in one["sizes"].items() if (text := str(size)) not in _UNSAID
        }
        lines.append(
            f"{one['deviation']:+7.1%} of {one['latency_ms']:.4g} ms  {one['op']}={one['variant']}  "
            + ", ".join(f"{name} {size}" for name, size in sizes.items())
        )
    return "\n".join(lines)


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
