"""What follows from a report: how much a missing primitive costs at least, and the work each situation implies."""

from __future__ import annotations

from typing import Any

from oplib.dtypes import QUANT_MODES
from oplib.symbols import evaluate, parse_expr
from perfdb.speed_of_light import find_rate
from perfdb.systems import System
from tracer.report.view import phase_workload

Json = dict[str, Any]  # Any: an object that becomes JSON


def at(workload: dict[str, int], phase: str) -> dict[str, int]:
    """The workload of one phase: generation makes one token after the context's."""
    return phase_workload({"workload": workload}, phase)


def bound_ms(entry: Json, system: System, workload: dict[str, int]) -> float:
    """Milliseconds that one occurrence of a primitive takes at least: its bytes, and its FLOPs at the bf16 peak."""
    where = at(workload, entry["phase"])
    moved = float(evaluate(parse_expr(entry["bytes"]), **where)) / system.memory_bandwidth.base
    work = (
        float(evaluate(parse_expr(entry["flops"]), **where))
        / system.peak[find_rate("bfloat16", system)].base
    )
    return max(moved, work) * 1e3


def rates(system: System) -> Json:
    """The numbers of a system that a reader needs to price another workload; a rate it lacks is the one that
    runs instead.
    """
    dtypes = {mode.compute_dtype for mode in QUANT_MODES.values()} | set(system.peak)
    return {
        "flops_per_s": {
            dtype: system.peak[find_rate(dtype, system)].base for dtype in sorted(dtypes)
        },
        "bytes_per_s": system.memory_bandwidth.base,
    }


def checklist(report: Json) -> list[Json]:
    """The work that the situation implies, in order."""
    if report["unsupported"]:
        return _s3(report)
    steps = _measuring(report["coverage"])
    if not report["known_architecture"]:
        what = f"{report['architecture']} is new: learn it as a known architecture once its ops are measured"
        steps.append(_step("mapping", what, file="models/architectures.toml"))
    return steps


def _measuring(coverage: Json) -> list[Json]:
    """What is to do about measurements: ask for them, make them, or nothing."""
    if not coverage["checked"]:
        what = "check which of these ops the tables of your backend hold: --backend"
        return [_step("coverage", what, file="perfdb/data")]
    if not (missing := coverage["missing"]):
        return []
    seconds = sum(point["bound_ms"] for point in missing) / 1e3
    what = (
        f"measure {len(missing)} points, {seconds:.2g} s of kernels at the speed of light: "
        "--cases writes the plan"
    )
    where = "/".join(coverage[name] for name in ("system", "backend", "version"))
    return [_step("collection", what, file=f"perfdb/data/{where}")]


def _step(step: str, what: str, *, module: str = "", inputs: str = "", file: str = "") -> Json:
    return {"step": step, "what": what, "module": module, "inputs": inputs, "file": file}


def _s3(report: Json) -> list[Json]:
    """Analysis, mock layer, alignment, integration, collection for each distinct computation, dearest first."""
    steps: list[Json] = []
    seen: set[tuple[str, str]] = set()
    for entry in sorted(report["unsupported"], key=lambda e: -e["bound_ms"] * e["count"]):
        if (entry["primitive"], entry["source"]) not in seen:
            seen.add((entry["primitive"], entry["source"]))
            steps += _for_primitive(entry)
    return steps


def _for_primitive(entry: Json) -> list[Json]:
    module, primitive = entry["where"], entry["primitive"]
    name = primitive.rpartition(".")[2]
    work = (
        ("analysis", f"state what {primitive} computes ({entry['reason']})", entry["source"]),
        (
            "mock layer",
            f"run {entry['module_class']} alone on these inputs",
            f"oplib/kernels/{name}/eager.py",
        ),
        ("alignment", f"compare the mock layer with {module} of the real model", "tests/gpu"),
        (
            "integration",
            f"add an op kind and its matcher; nearest today: {entry['nearest']}",
            f"oplib/ops/{name}.py, tracer/match/{name}.py",
        ),
        ("collection", "measure the new op over its grid", "perfdb/data"),
    )
    return [
        _step(step, what, module=module, inputs=entry["shape"], file=file)
        for step, what, file in work
    ]
