"""Words that the terminal and the page share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from oplib.wording import scaled

Report = Mapping[str, Any]  # an object that `price-model --json` prints

PHASES = {"context": "Context", "generation": "Generation, the mean step"}


def model_name(report: Report) -> str:
    """The model without the folders that its config lies in."""
    path = PurePath(report["model"])
    return path.parent.name if path.name == "config.json" else str(report["model"])


def layout_words(report: Report) -> str:
    """`tp 8 dp 2`: the sizes above 1."""
    sizes = [f"{name} {size}" for name, size in report["layout"].items() if size > 1]
    return " ".join(sizes) or "tp 1"


def machine_words(report: Report) -> str:
    """GPUs, tables and mode of a run."""
    tables = " ".join(part for part in (report["backend"], report["version"]) if part)
    gpus = f"{report['gpus']} x {report['system']}"
    return ", ".join(part for part in (gpus, layout_words(report), tables, report["mode"]) if part)


def workload_words(report: Report) -> str:
    """The workload of a run."""
    sizes = [f"{name} {size}" for name, size in report["workload"].items()]
    return ", ".join(sizes if report["workload"]["prefix"] else sizes[:-1])


def memory_words(memory: Mapping[str, Any]) -> str:
    """Parts, sum and verdict."""
    parts = [
        f"{scaled(memory[part], 'B')} {label}"
        for part, label in (
            ("weights", "weights"),
            ("kv_cache", "KV cache"),
            ("activations", "activations"),
        )
        if memory[part] is not None
    ]
    return f"{' + '.join(parts)} = {scaled(memory['total'], 'B')}: {fit_words(memory)}"


def fit_words(memory: Mapping[str, Any]) -> str:
    """Whether it fits, and by how much."""
    free = memory["capacity"] - memory["total"]
    if memory["fits"]:
        return f"fits, {free / 2**30:.1f} GiB free"
    return f"does not fit by {-free / 2**30:.1f} GiB"


def origin_words(origins: Mapping[str, float]) -> str:
    """`measured 51%, interpolated 42%`: shares of the time of a phase."""
    return ", ".join(f"{origin} {share:.0%}" for origin, share in origins.items())


def percent(value: float) -> str:
    """A share in at most five characters."""
    return "100%" if value > 0.9995 else f"{value:.1%}"
