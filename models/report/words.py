"""Words that the terminal and the page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from oplib.wording import duration, gib

Report = Mapping[str, Any]  # an object that `price-model --json` prints

SHORT_ORIGINS = {"interpolated": "interpol", "extrapolated": "extrapol", "empirical": "empiric"}
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


def tables_words(report: Report) -> str:
    """System, tables and mode of a sweep."""
    tables = " ".join(part for part in (report["backend"], report["version"]) if part)
    return ", ".join((report["system"], tables or "no tables", report["mode"]))


def workload_words(report: Report) -> str:
    """The workload of a run, and how many context passes it is cut into."""
    sizes = [f"{name} {size}" for name, size in report["workload"].items()]
    return ", ".join(
        [*(sizes if report["workload"]["prefix"] else sizes[:-1]), *pass_words(report)]
    )


def pass_words(report: Report) -> list[str]:
    """`4 context passes of at most 8,192 tokens`, where the passes were limited."""
    if report["chunk"] is None:
        return []
    several = "es" if report["context_passes"] > 1 else ""
    return [
        f"{report['context_passes']:,} context pass{several} of at most {report['chunk']:,} tokens"
    ]


def four_digits(value: float) -> str:
    """Four digits, or all those before the point: `404.5`, `12880`."""
    return f"{value:.4g}" if value < 9999.5 else f"{value:.0f}"


def memory_words(memory: Mapping[str, Any]) -> str:
    """`weights 61.0, cache 16.9 GiB`: what is known and not empty."""
    names = {
        "weights": "weights",
        "kv_cache": "cache",
        "activations": "activations",
        "buffers": "buffers",
    }
    found = {name: memory[part] for part, name in names.items() if memory[part]}
    return ", ".join(f"{name} {gib(size)}" for name, size in found.items()).replace(" GiB,", ",")


def origin_words(origins: Mapping[str, float], *, short: bool = False) -> str:
    """`measured 51%, interpolated 42%`: shares of the time of a phase. Of more than four the largest come first, as a
    narrow line does not hold them all."""
    words = SHORT_ORIGINS if short else {}
    if len(origins) > 4:
        origins = dict(sorted(origins.items(), key=lambda item: -item[1]))
    return ", ".join(
        f"{words.get(origin, origin)} {share:.0%}" for origin, share in origins.items()
    )


def table_share(report: Report) -> float:
    """Share of a request's time that stands on measured rows."""
    origins = report["origins"]
    return float(
        sum(origins.get(name, 0.0) for name in ("measured", "interpolated", "extrapolated"))
    )


def percent(value: float) -> str:
    """A share in at most five characters."""
    return "100%" if value > 0.9995 else f"{value:.1%}"


def module_words(report: Report) -> list[str]:
    """A line for each phase and kind of module: what all sets of ops that are one take as it, and as their parts."""
    alike: dict[tuple[str, str, bool], list[Mapping[str, Any]]] = {}
    for one in report["modules"]:
        alike.setdefault((one["phase"], one["op"], one["used"]), []).append(one)
    lines = []
    for (phase, kind, used), mine in alike.items():
        whole, parts = (_together(mine, name) for name in ("ms", "parts_ms"))
        prices = f"{kind} {whole}, parts {parts}; {'the module' if used else 'the parts'} counted"
        lines.append(f"{phase}: {prices}")
    return lines


def _together(modules: Sequence[Mapping[str, Any]], name: str) -> str:
    """What modules take in one pass; unknown where one of them has no price."""
    known = [one[name] for one in modules if one[name] is not None]
    return duration(sum(known)) if len(known) == len(modules) else "unknown"
