"""What follows from a report: how much a missing primitive costs at least, and the work each situation implies."""

from __future__ import annotations

from typing import Any

from oplib.dtypes import QUANT_MODES
from oplib.symbols import evaluate, parse_expr
from perfdb.speed_of_light import find_rate
from perfdb.systems import System
from tracer.report.view import phase_workload

Json = dict[str, Any]  # Any: an object that becomes JSON

SITUATIONS = ("S1", "S2", "S1-or-S2", "S3")


def at(workload: dict[str, int], phase: str) -> dict[str, int]:
    """The workload of one phase: generation makes one token after the context's."""
    return phase_workload({"workload": workload}, phase)


def bound_ms(entry: Json, system: System, workload: dict[str, int]) -> float:
    """Milliseconds that one occurrence of a primitive takes at least: its bytes, and its FLOPs at the bf16 peak."""
    where = at(workload, entry["phase"])
    moved = float(evaluate(parse_expr(entry["bytes"]), **where)) / system.memory_bandwidth.base
    work = float(evaluate(parse_expr(entry["flops"]), **where)) / system.peak[find_rate("bfloat16", system)].base
    return max(moved, work) * 1e3


def rates(system: System) -> Json:
    """The numbers of a system that a reader needs to price another workload; a rate it lacks is the one that runs instead."""
    dtypes = {mode.compute_dtype for mode in QUANT_MODES.values()} | set(system.peak)
    return {
        "flops_per_s": {dtype: system.peak[find_rate(dtype, system)].base for dtype in sorted(dtypes)},
        "bytes_per_s": system.memory_bandwidth.base,
    }


def checklist(report: Json) -> list[Json]:
    """The work that the situation implies, in order."""
    if report["unsupported"]:
        return _s3(report)
    steps = [
        _step("coverage", "check which of these ops the tables of your backend hold: no tables were asked here", file="perfdb/data")
    ]
    if not report["known_architecture"]:
        steps.append(
            _step("mapping", f"{report['architecture']} is new: add it to the known architectures once its ops are measured",
                  file="models/architectures.toml")
        )  # fmt: skip
    return steps


def _step(step: str, what: str, *, module: str = "", inputs: str = "", file: str = "") -> Json:
    return {"step": step, "what": what, "module": module, "inputs": inputs, "file": file}


def _s3(report: Json) -> list[Json]:
    """Analysis, mock layer, alignment, integration, collection for each distinct computation, dearest first."""
    steps: list[Json] = []
    seen: set[tuple[str, str]] = set()
    for entry in sorted(report["unsupported"], key=lambda e: -e["bound_ms"] * e["count"]):
        if (entry["primitive"], entry["source"]) in seen:
            continue
        seen.add((entry["primitive"], entry["source"]))
        module, inputs, name = entry["where"], entry["shape"], entry["primitive"].rpartition(".")[2]
        steps += [
            _step("analysis", f"state what {entry['primitive']} computes ({entry['reason']})", module=module, inputs=inputs,
                  file=entry["source"]),
            _step("mock layer", f"a module that runs {entry['module_class']} alone on the recorded inputs", module=module,
                  inputs=inputs, file=f"oplib/kernels/{name}/eager.py"),
            _step("alignment", f"compare the mock layer with {module} of the real model", module=module, inputs=inputs,
                  file="tests/gpu"),
            _step("integration", f"an op kind and its matcher; nearest today: {entry['nearest']}", module=module, inputs=inputs,
                  file=f"oplib/ops/{name}.py, tracer/match/{name}.py"),
            _step("collection", "measure the new op over its grid", module=module, inputs=inputs, file="perfdb/data"),
        ]  # fmt: skip
    return steps
