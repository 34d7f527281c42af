"""Trace one model type into a row of the coverage table."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pool
from zoo import Specimen

PHASES = ("context", "generation")
Row = dict[str, Any]  # Any: a JSON object


def rows(
    specimens: Iterable[Specimen], *, jobs: int, seconds: float, memory_gb: float
) -> Iterator[Row]:
    """A row per type in order of completion, each from a process that is killed when it takes longer."""
    done = pool.results(trace, specimens, jobs=jobs, seconds=seconds, memory_gb=memory_gb)
    for one, found in done:
        if isinstance(found, pool.Lost):
            yield {**_row(one), "error": found.reason, "seconds": seconds, "cpu_s": seconds}
        else:
            yield found


def trace(one: Specimen) -> Row:
    """The row of one type: what `tracer.analysis.analyse` says of its config, or the line of its error."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from oplib.errors import TraceModelError
    from tracer.analysis import Options, analyse

    row, steps = _row(one), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = one.write(Path(folder))
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            row |= _findings(analyse(str(path), Options(), steps.append))
        except TraceModelError as error:
            row["error"] = _plain(error.message, folder)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ends a trace is what its row says
            row["error"] = "not caught: " + _plain(f"{type(error).__name__}: {error}", folder)
    # A step that began says that the one before it is done.
    after = {"context": "trace generation", "generation": "match"}
    row["phases"] = [phase for phase in PHASES if after[phase] in steps]
    row["seconds"] = round(time.perf_counter() - start, 2)
    row["cpu_s"] = round(time.process_time() - cpu_start, 2)
    row["peak_gb"] = round(pool.peak_gb(), 2)
    return row


def _row(one: Specimen) -> Row:
    return {
        "type": one.key,
        "class": one.architecture,
        "source": one.source,
        "phases": [],
        "exact": False,
        "situation": "",
        "error": "",
    }


def _findings(report: Row) -> Row:
    held = report["conservation"]
    return {
        "traced_type": report["model_type"],
        "layers": sum(layer["count"] for layer in report["layers"]),
        "unique_layers": len(report["layers"]),
        "nodes": held["nodes"]["total"],
        "ops": sum(len(ops) for ops in report["op_list"]["phases"].values()),
        "situation": report["situation"],
        "exact": held["exact"],
        "inexact": "" if held["exact"] else _inexact(held),
        "full_depth": report["full_depth"],
        "why_full_depth": next((n for n in report["notes"] if "full depth" in n), ""),
        "steps": {s: round(t, 2) for s, t in report["timing_s"].items() if s != "total"},
        "unsupported": [
            {name: entry[name] for name in ("phase", "primitive", "count", "source")}
            for entry in report["unsupported"]
        ],
    }


def _inexact(held: Row) -> str:
    """By how much which of the three sums is off, in percent of the model's own."""
    said = []
    for name, whole in (("weights", "model"), ("flops", "counter")):
        sums = held[name]
        off = sums["ops"] + sums["primitives"] - sums[whole]
        if off:
            said.append(f"{name} {100 * off / sums[whole]:+.3g} %")
    return ", ".join(said) or "nodes or lowering"


def _plain(text: str, folder: str) -> str:
    """One line of an error without the temporary folder and the addresses of objects."""
    text = re.sub(re.escape(folder) + r"[\w./-]*/", "", text)
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split()))[:300]
