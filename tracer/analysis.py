"""The whole job: from a model path to the report object that every output is made of."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig

import oplib
from oplib.errors import TraceModelError, UnsupportedModelError
from oplib.lowerings import USUAL
from oplib.op import Op
from oplib.oplist import SCHEMA, OpList
from oplib.symbols import evaluate
from perfdb.speed_of_light import speed_of_light
from perfdb.systems import System, load_system
from tracer import (
    assemble,
    conserve,
    graphs,
    held,
    idle,
    live,
    notes,
    parallel,
    primitives,
    rewrite,
    triage,
)
from tracer.build import build_model, in_one_dtype, one_line, quiet_transformers
from tracer.cache import ask_for_none
from tracer.config_checks import max_positions
from tracer.match import match
from tracer.match.claim import Matched
from tracer.match.flow import Flow, Role
from tracer.parallel.plan import plan_of
from tracer.passes import SIZES_OF_VALUES
from tracer.provenance import is_ours, line_of
from tracer.prune import Pruning, full_parameters, prune
from tracer.quantization import QuantScheme, read_quantization
from tracer.resolve import ResolvedModel, resolve
from tracer.trace import PHASES, Capture, Trace, capture, trace
from tracer.weights import Weights, kept_in_full_precision, quantised_parts

Progress = Callable[[str], None]
Json = dict[str, Any]  # Any: an object that becomes JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to report: lowering, the workload and system of the shares, whether graphs go along."""

    lowering: str = USUAL
    system: str = "h200_sxm"
    b: int = 16
    s: int = 4096
    p: int = 0
    with_graphs: bool = False


@dataclass(slots=True, kw_only=True)
class Traced:
    """A model's traces and what they were made from. `by_pass`, known once FLOPs are counted, says that tokens of one
    pass are cached otherwise than those of several.
    """

    resolved: ResolvedModel
    model: nn.Module
    pruning: Pruning
    capture: Capture
    traces: dict[str, Trace]
    scheme: QuantScheme
    idle: tuple[str, ...] = ()
    by_pass: bool = False


class Clock:
    """Seconds spent per step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def trace_model(
    model_path: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    configure: Callable[[PreTrainedConfig], None] | None = None,
    clock: Clock | None = None,
    progress: Progress = lambda _step: None,
) -> Traced:
    """Resolve, build, prune and trace both phases. Falls back to the full depth where pruned layers do not run.

    `configure` changes the config of the language model, in place, before it is built.
    """
    clock = clock or Clock()
    progress("resolve")
    with clock.measure("resolve"):
        resolved = resolve(model_path, revision=revision, trust_remote_code=trust_remote_code)
        scheme = read_quantization(resolved.raw, resolved.hf_quant_config)
        if configure is not None:
            configure(resolved.config)
    with _without_garbage_collection():
        try:
            return _trace(resolved, scheme, clock, progress, pruned=True)
        except TraceModelError:
            raise
        except SIZES_OF_VALUES as error:
            raise _without_sizes(resolved, error) from error
        except Exception as error:  # noqa: BLE001 - any failure of the model's own code: another way may run
            first, mixed = error, _is_of_dtypes(error)
        if mixed:
            said = (*resolved.notes, "parameters that the model makes in another dtype are in bfloat16, "
                    "as loading makes them: it does not run otherwise")  # fmt: skip
            resolved = replace(resolved, notes=said)
            try:
                return _trace(resolved, scheme, clock, progress, pruned=True, one_dtype=True)
            except TraceModelError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                first = error
        return _trace_otherwise(resolved, scheme, clock, progress, one_dtype=mixed, first=first)


def _is_of_dtypes(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(
        w in str(error) for w in ("dtype", "scalar type")
    )


def _trace_otherwise(
    resolved: ResolvedModel,
    scheme: QuantScheme,
    clock: Clock,
    progress: Progress,
    *,
    one_dtype: bool,
    first: Exception,
) -> Traced:
    """What traces where representative layers, which raised `first`, do not: every layer, or passes without a cache."""
    try:
        found = _trace(resolved, scheme, clock, progress, pruned=False, one_dtype=one_dtype)
    except TraceModelError:
        raise
    except Exception as error:  # noqa: BLE001 - any failure of the model's own code: another way may run
        failed = error
    else:
        found.pruning.reason = f"representative layers do not run on their own ({_said(first)})"
        return found
    if is_ours(failed):
        raise _untraced(resolved, failed) from failed
    try:
        return _trace(
            resolved, scheme, clock, progress, pruned=True, one_dtype=one_dtype, cached=False
        )
    except SIZES_OF_VALUES as error:  # without a cache it runs up to there
        raise _without_sizes(resolved, error) from error
    except Exception:  # noqa: BLE001 - a cache was not what kept it from running
        raise _untraced(resolved, failed) from failed


def _untraced(resolved: ResolvedModel, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{resolved.architecture} builds but its forward pass cannot be traced: {_said(error)}",
        hint="--debug shows where; a forward that depends on the values of its data has no graph",
    )


def _without_sizes(resolved: ResolvedModel, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{resolved.architecture} builds but has no graph: how long a tensor becomes depends on the values of its "
        f"data, at {line_of(error) or 'an unknown line'}.",
        hint="Sizes are expressions of b, s and p only; a config that fixes such a length may trace.",
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _trace(
    resolved: ResolvedModel,
    scheme: QuantScheme,
    clock: Clock,
    progress: Progress,
    *,
    pruned: bool,
    one_dtype: bool = False,
    cached: bool = True,
) -> Traced:
    progress("build")
    with clock.measure("build"):
        model = build_model(
            resolved, attn_implementation="trace_model", experts_implementation="trace_model"
        )
        if one_dtype:
            in_one_dtype(model)
        if not cached:
            ask_for_none(model)
        scheme = scheme.keeping(kept_in_full_precision(model))
        pruning = prune(
            model, lambda path, layer: quantised_parts(scheme, path, layer), whole=not pruned
        )
    if full_parameters(model, pruning) != pruning.parameters:
        raise RuntimeError(
            f"layers times counts give {full_parameters(model, pruning)} parameters, the model has {pruning.parameters}"
        )
    with clock.measure("trace"), quiet_transformers():
        progress("capture the cache")
        captured = capture(model)
        traces: dict[str, Trace] = {}
        for phase in PHASES:
            progress(f"trace {phase}")
            branches = any(t.branches for t in traces.values())
            traces[phase] = trace(model, captured, phase, branches=branches)
        unread = _idle(model, pruning, traces, pruned=pruned)
    return Traced(
        resolved=resolved,
        model=model,
        idle=unread,
        pruning=pruning,
        capture=captured,
        traces=traces,
        scheme=scheme,
    )


def _idle(
    model: nn.Module,
    pruning: Pruning,
    traces: dict[str, Trace],
    *,
    pruned: bool,
) -> tuple[str, ...]:
    """Parameters that no forward pass reads. One that a layer reads and its representative does not forbids pruning."""
    names = idle.unread(model, traces.values())
    if not names:
        return ()
    read = idle.read_by_the_whole(model, pruning, names, traces["generation"].setting)
    if read and pruned:
        raise RuntimeError(f"representative layers do not read {min(read)}, the whole model does")
    return tuple(name for name in names if name not in read and pruning.copies.get(name, 1))


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Tracing makes many small objects and no garbage worth collecting before it is over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def report(
    traced: Traced,
    options: Options,
    clock: Clock | None = None,
    progress: Progress = lambda _step: None,
) -> Json:
    """Match, prove and describe: the object that `--json` prints."""
    clock = clock or Clock()
    weights = Weights(model=traced.model, pruning=traced.pruning, scheme=traced.scheme)
    system = load_system(options.system)
    with clock.measure("match"):
        progress("match")
        matched = {phase: match(Flow(t, traced.pruning)) for phase, t in traced.traces.items()}
        for m in matched.values():
            assemble.set_modes(m, weights)
        decided = sorted({line for m in matched.values() for line in _decided_by_data(m.flow)})
        unsupported = [e for m in matched.values() for e in primitives.describe(m, weights)]
        progress("prove conservation")
        written = {phase: assemble.ops(m, weights) for phase, m in matched.items()}
        counted = _count(traced, matched, weights, unsupported, written)
        owned = {phase: set(m.owner) for phase, m in matched.items()}
        lowered = {phase: rewrite.lower(m, options.lowering) for phase, m in matched.items()}
        plan = plan_of(traced.model)
        spreads = parallel.spreads({phase: m.flow for phase, m in lowered.items()}, plan)
        phases = {phase: assemble.ops(m, weights, spreads[phase]) for phase, m in lowered.items()}
        op_list = OpList(lowering=options.lowering, phases=phases)
        lost_nothing = all(
            conserve.kept(m, owned[phase], written[phase], phases[phase])
            for phase, m in lowered.items()
        )
        conservation = conserve.report(*counted, lowering_kept=lost_nothing)
    fired = list(dict.fromkeys(r for m in lowered.values() for r in m.rewrites))
    with clock.measure("match"):
        found = _describe(traced, options, weights, system, op_list, unsupported)
        found["kv_cache"] = held.kv_cache(traced, spreads, lowered)
        found["activations"] = live.activations(lowered, spreads)
    clock.seconds["total"] = sum(clock.seconds.values())
    found |= {"conservation": conservation, "rewrites": fired}
    if not conservation["exact"]:
        found["notes"].append(
            "conservation is not exact: do not rely on this op list before the difference is explained"
        )
    if decided:
        found["notes"].append(
            "what the model computes decides what runs, or how large it is, and the list is one of its cases: "
            + ", ".join(decided)
        )
    found["notes"] += parallel.notes(spreads)
    found["checklist"] = []
    if options.with_graphs:
        found["graphs"] = [g for m in lowered.values() for g in graphs.describe(m)]
    found["timing_s"] = {step: round(seconds, 4) for step, seconds in clock.seconds.items()}
    found["versions"] = versions()
    return found


def versions() -> dict[str, str]:
    """The versions that a trace depends on."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trace-model": oplib.__version__,
    }


def _count(
    traced: Traced,
    matched: dict[str, Matched],
    weights: Weights,
    unsupported: list[Json],
    written: dict[str, tuple[Op, ...]],
) -> tuple[dict[str, int], Json, dict[str, int]]:
    """Weights, FLOPs and nodes, each counted on the model and on what became of it as written."""
    context, generation = (traced.traces[phase].setting for phase in PHASES)
    try:
        with quiet_transformers():
            counted = conserve.count_flops(
                traced.model,
                traced.pruning,
                replace(generation, fresh=context.fresh),
                traced.capture.leaves,
            )
    except Exception as error:
        raise UnsupportedModelError(
            f"{traced.resolved.architecture} does not run with its own attention written out: {_said(error)}.",
            hint="Sizes of its config do not go together: heads and their widths, or windows.",
        ) from error
    traced.by_pass = counted["generation"].by_pass
    missed = {phase: _primitive_flops(m, counted[phase]) for phase, m in matched.items()}
    held = sum(e["weight_bytes"] * e["count"] for e in unsupported if e["phase"] == "context")
    weight = {
        "model": weights.total(),
        "ops": sum(op.get_weights() for op in written["context"]),
        "primitives": held,
        "idle": sum(e["bytes"] for e in idle.describe(traced.idle, weights, ())),
    }
    return weight, conserve.flops(written, counted, missed), conserve.nodes(matched)


def _decided_by_data(flow: Flow) -> Iterator[str]:
    """Source lines that made the values which Python asked for, where they are made of token data: not of ids,
    positions and masks, whose answers follow from the workload.
    """
    for node in flow.trace.questions:
        if flow.role[node] is Role.DATA:
            yield flow.origin(node).source


def _primitive_flops(matched: Matched, at: conserve.Counted) -> int:
    flow = matched.flow
    return sum(
        flow.pruning.count(flow.origin(node).module)
        * int(evaluate(primitives.counted_flops(flow, node), b=at.b, s=at.s, p=at.p))
        for node in matched.primitives
    )


def _describe(
    traced: Traced,
    options: Options,
    weights: Weights,
    system: System,
    op_list: OpList,
    unsupported: list[Json],
) -> Json:
    resolved, pruning = traced.resolved, traced.pruning
    workload = {"b": options.b, "s": options.s, "p": options.p}
    for entry in unsupported:
        entry["bound_ms"] = triage.bound_ms(entry, system, workload)
    return {
        "schema": SCHEMA,
        "model": resolved.path,
        "model_type": resolved.model_type,
        "architecture": resolved.architecture,
        "known_architecture": False,
        "relatives": [],
        "situation": "S3" if unsupported else "S1-or-S2",
        "max_positions": max_positions(resolved.config),
        "parameters": pruning.parameters,
        "weight_bytes": weights.total(),
        "layers": [{**kept.layer.to_json(), "id": kept.id} for kept in pruning.kept],
        "full_depth": bool(pruning.reason),
        "notes": notes.of(traced),
        "quantization": {
            "method": traced.scheme.method or None,
            "notes": list(traced.scheme.notes),
        },
        "op_list": _op_list_json(op_list),
        "unsupported": unsupported,
        "idle": idle.describe(traced.idle, weights, traced.traces.values()),
        "coverage": {"checked": False, "missing": []},
        "kv_cache": {},
        "activations": {},
        "workload": workload,
        "system": system.id,
        "system_rates": triage.rates(system),
        "sol": {
            phase: [_bound(op, phase, system, workload) for op in ops]
            for phase, ops in op_list.phases.items()
        },
        "guards": {phase: list(t.guards) for phase, t in traced.traces.items()},
        "traced_at": {phase: dict(t.traced_at) for phase, t in traced.traces.items()},
    }


def _op_list_json(op_list: OpList) -> Json:
    found = op_list.to_json()
    for phase, ops in op_list.phases.items():
        for entry, op in zip(found["phases"][phase], ops, strict=True):
            entry["compute_dtype"] = op.kind.compute_dtype(op.params)
    return found


def _bound(op: Op, phase: str, system: System, workload: Json) -> Json:
    found = speed_of_light(op, system, **triage.at(workload, phase))
    return {
        "ms": found.ms,
        "compute_ms": found.compute_ms,
        "memory_ms": found.memory_ms,
        "bound": found.bound,
        "ran_as": found.ran_as,
    }


def analyse(
    model_path: str, options: Options, progress: Progress = lambda _step: None, **source: Any
) -> Json:
    """Trace and report in one call; `source` is what `trace_model` takes. Whatever goes wrong is a TraceModelError."""
    clock = Clock()
    try:
        traced = trace_model(model_path, clock=clock, progress=progress, **source)
        return report(traced, options, clock, progress)
    except TraceModelError:
        raise
    except Exception as error:
        raise TraceModelError(
            _said(error), hint="This is a mistake of trace-model; --debug shows where."
        ) from error
