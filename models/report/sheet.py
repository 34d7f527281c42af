"""Prices as CSV: the ops of one run, or the runs of a sweep."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]  # an object that `price-model --json` prints
RUN = (
    "ttft_ms", "tpot_ms", "request_ms", "tokens_per_s_per_gpu", "tokens_per_s_per_user",
    "joules_per_token", "energy_uncertainty", "uncertainty", "origin",
)  # fmt: skip
OP = (
    "phase", "stage", "layer", "name", "op", "count", "ms", "share", "uncertainty", "origin", "energy",
    "energy_uncertainty", "bound", "bound_ms", "achieved", "intensity",
)  # fmt: skip


def render_csv(reports: Sequence[Report]) -> str:
    """A row per op of a single run, a row per run of several."""
    return render_ops(reports[0]) if len(reports) == 1 else render_runs(reports)


def render_ops(report: Report) -> str:
    """A row per op; its parameters as columns of their own, `param_phase` where the op itself has a `phase`."""
    params = list(dict.fromkeys(name for op in report["ops"] for name in op["params"]))
    titles = [f"param_{name}" if name in OP else name for name in params]
    rows = [
        [*(op[field] for field in OP), *(op["params"].get(name) for name in params)]
        for op in report["ops"]
    ]
    return _csv([*OP, *titles], rows)


def render_runs(reports: Sequence[Report]) -> str:
    """A row per run."""
    parts = ("layout", "workload", "memory")
    fields = [name for part in parts for name in reports[0][part]]
    head = ["model", "system", "backend", "version", "mode", "gpus", "chunk", "context_passes"]
    rows = [
        [
            *(report[field] for field in head),
            *(value for part in parts for value in report[part].values()),
            *(report[field] for field in RUN),
        ]
        for report in reports
    ]
    return _csv([*head, *fields, *RUN], rows)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:  # Any: cells
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue()
