"""The report as one HTML page: markup, style, scripts and data in a single file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from oplib.wording import short_params
from tracer.report import coverage
from tracer.report.view import index_ranges, phase_workload, verdict

# In the order in which the browser reads them; the last one starts the page.
SCRIPTS = (
    "expressions.js",
    "layout.js",
    "collapse.js",
    "dom.js",
    "model.js",
    "charts.js",
    "roofline.js",
    "tables.js",
    "coverage.js",
    "proof.js",
    "detail.js",
    "graph.js",
    "camera.js",
    "report.js",
)


def render_html(report: Mapping[str, Any]) -> str:
    """The whole page as text; it loads nothing and works from a file."""
    parts = {
        "title": escape(f"{report['model']}: {report['situation']}"),
        "style": page_file("report.css"),
        "data": _embedded(dict(report) | _short_coverage(report) | {"view": _view(report)}),
        "script": "\n".join(page_file(name).replace('"use strict";\n', "") for name in SCRIPTS),
    }
    # One pass, so that text in the report that looks like a slot stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], page_file("report.html"))


def page_file(name: str) -> str:
    """The text of a file of the page."""
    return files("tracer.report").joinpath("page", name).read_text(encoding="utf-8")


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says in the same words as the terminal."""
    phases = report["op_list"]["phases"]
    return {
        "sentence": verdict(report),
        "workloads": {phase: phase_workload(report, phase) for phase in phases},
        "shorts": {p: [short_params(op["params"]) for op in ops] for p, ops in phases.items()},
        "ranges": [index_ranges(layer["indices"]) for layer in report["layers"]],
        "coverage": _coverage(report),
    }


def _coverage(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was asked of the tables; None where none was asked."""
    found = report.get("coverage") or {}
    if not found.get("checked"):
        return None
    return {
        "where": coverage.where(found),
        "points": sum(sum(row["points"].values()) for row in found["ops"]),
        "missing": len(found["missing"]),
        "summaries": {phase: coverage.summary(report, phase) for phase in found["phases"]},
        "rows": {phase: coverage.rows(report, phase) for phase in found["phases"]},
        "unmeasured": coverage.unmeasured(report),
        "groups": coverage.groups(found),
    }


def _short_coverage(report: Mapping[str, Any]) -> dict[str, Any]:
    """The page shows groups of points: their list, which may be long, stays out of it."""
    return {"coverage": dict(report.get("coverage") or {}) | {"missing": [], "ops": []}}


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element, whatever text the model's files hold."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value
