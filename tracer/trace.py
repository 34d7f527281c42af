"""From a pruned model to one graph per phase, symbolic in b (batch), s (new tokens) and p (cached tokens).

The graph is made of the operator calls of a forward pass over meta tensors (`tracer.recorder`), at the level where
`linear` and the boundaries are whole.

Sizes: the model runs at two concrete workloads, one long and one short, and every size is read off the
pair (`tracer.sizes`). Where the short one takes other branches (windows, top-k), a second long one confirms
instead. Where two workloads do not settle every size, the model runs once more with symbols
(`tracer.symbolic`), which is slower. Both phases of DeepSeek-V3 on one core: 3.3 s with `torch.export`, 0.7 s with
`make_fx` at two workloads, 0.1 s so.

Both phases run over a cache that holds p tokens already: context with s new tokens (p = 0 gives a fresh prompt),
generation with one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch import fx, nn
from transformers import cache_utils

from oplib.errors import TraceModelError, UnsupportedModelError
from oplib.symbols import P
from tracer import provenance
from tracer.build import one_line
from tracer.cache import Leaf, Path, infer, leaves, rebuild, run
from tracer.carried import Carried
from tracer.passes import (
    KINDS,
    PLAIN,
    Setting,
    alone,
    limited,
    refuse_sequence_loops,
    refusing_token_loops,
    setting_of,
)
from tracer.recorder import Call, RealDataError, Recorder, graph
from tracer.sizes import (
    BLOCK,
    UNLIMITED,
    ConcreteSizes,
    Different,
    Unsettled,
    Workload,
    Workloads,
    within,
)
from tracer.symbolic import SymbolicSizes

PHASES = ("context", "generation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """The cache a context pass leaves: an example to copy, and its leaves as real passes leave them.

    `setting` is how the model runs on sizes alone, `workloads` where it is traced. `replaced` are the classes of
    modules that its first pass put into the model for good.
    """

    template: Any  # a cache object of transformers
    leaves: tuple[Leaf, ...]
    setting: Setting
    workloads: Workloads
    replaced: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Trace:
    """One phase: its graph, the parameter behind each `get_attr` node, and what its sizes rest on.

    `cache` says where each output after the logits lies in the cache that the pass leaves, `written` names the module
    that made each of these tensors, where a call of its own did;
    `windows` the length that the cache of a window really has, by the input that holds every token here.

    `expr` turns a size of this trace into an expression of b, s, p. `branches` says that short sequences take other
    branches than the traced one, `whole_blocks` that the rest of a block may do so too, `longest` that more new tokens
    do; `guards` are the conditions as far as they are known. `asked` are the lines that asked for values, each with the
    answer, `questions` the nodes whose values they asked for.
    """

    phase: str
    graph: fx.Graph
    parameters: dict[str, tuple[str, nn.Parameter]]
    expr: Callable[[int | torch.SymInt], sympy.Expr]
    traced_at: dict[str, int]
    branches: bool = False
    whole_blocks: bool = False
    longest: int | None = None
    guards: tuple[str, ...] = ()
    cache: tuple[Path, ...] = ()
    written: dict[Path, str] = field(default_factory=dict)
    windows: dict[str, sympy.Min] = field(default_factory=dict)
    setting: Setting = PLAIN
    asked: tuple[str, ...] = ()
    questions: tuple[fx.Node, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One recorded forward pass: its calls, its inputs, and its outputs: logits, cache, what Python asks values of."""

    calls: list[Call]
    inputs: dict[str, torch.Tensor]
    outputs: tuple[torch.Tensor, ...]
    cache: tuple[Path, ...]  # where each output after the logits lies in the cache
    asked: tuple[str, ...] = ()  # lines whose questions for values were answered


def capture(model: nn.Module) -> Capture:
    """Run context passes on sizes alone and read the cache's sizes off them."""
    built = {path: type(module).__name__ for path, module in model.named_modules()}
    with alone(model):
        setting = setting_of(model)
        try:
            found = _capture(model, setting, UNLIMITED)
        except TraceModelError:
            raise
        except Exception:
            refuse_sequence_loops(model, setting)
            setting = limited(model, setting, UNLIMITED.points[3][1])
            if setting.positions is None:
                raise
            found = _capture(model, setting, within(setting.positions))
    return replace(found, replaced=_replaced(model, built))


def _replaced(model: nn.Module, built: Mapping[str, str]) -> tuple[str, ...]:
    now = ((built.get(path), type(module).__name__) for path, module in model.named_modules())
    return tuple(sorted({f"{new} in place of {old}" for old, new in now if old and old != new}))


def _capture(model: nn.Module, setting: Setting, workloads: Workloads) -> Capture:
    fill = refusing_token_loops(model, setting, workloads.points)
    template, found = infer(fill, workloads.points)
    if isinstance(template, Carried) and template.is_empty:
        setting = replace(setting, rereads=True)
    return Capture(template=template, leaves=found, setting=setting, workloads=workloads)


def trace(
    model: nn.Module,
    captured: Capture,
    phase: str,
    *,
    branches: bool = False,
    symbolic: bool = False,
) -> Trace:
    """The graph of one phase. `branches` says that short sequences are known to differ, `symbolic` traces with
    symbols at once.
    """
    unsettled: Unsettled | None = None
    if not symbolic:
        try:
            return _trace_concrete(model, captured, phase, branches)
        except Unsettled as why:
            unsettled = why
        refuse_sequence_loops(model, captured.setting)
    sizes = SymbolicSizes(phase, captured.workloads.long)
    try:
        with sizes.mode():
            found = _run(model, captured, sizes.values)
    except Exception as error:
        if unsettled is None or isinstance(error, TraceModelError):
            raise
        raise _without_sizes(unsettled, error) from error
    at = {
        name: value if isinstance(value, int) else value.node.hint
        for name, value in sizes.values.items()
    }
    guards = sizes.guards()
    made = _trace(model, captured, found, phase, sizes.expr, at)
    return replace(made, branches=bool(guards), whole_blocks=bool(guards), guards=guards)


def _without_sizes(unsettled: Unsettled, error: Exception) -> UnsupportedModelError:
    """The error for a model that runs, and whose sizes neither two workloads nor symbols settle: more layers would not
    settle them either.
    """
    return UnsupportedModelError(
        f"its forward pass has a size that is no known function of b, s and p ({unsettled}), and it does not run over "
        f"symbols: {type(error).__name__}: {one_line(error)}",
        hint="A size that depends on the values of data has no expression; see tracer/sizes.py.",
    )


def _trace_concrete(model: nn.Module, captured: Capture, phase: str, branches: bool) -> Trace:
    """The trace in the first setting that runs: as captured, over tensors that answer more, at lengths that the model
    has, without a cache, with its cached tokens given again.
    """
    failed: Exception | None = None
    for at in _settings(model, captured, phase):
        try:
            return _trace_twice(model, at, phase, branches)
        except (Unsettled, TraceModelError):
            raise
        except Exception as error:  # noqa: BLE001 - any failure of the model's own code: another setting may run
            failed = error
    raise failed or AssertionError("no setting")


def _settings(model: nn.Module, captured: Capture, phase: str) -> Iterator[Capture]:
    plain = captured.setting
    for tensors in KINDS[KINDS.index(plain.tensors) :]:
        yield replace(captured, setting=replace(plain, tensors=tensors))
    if plain.positions is None:
        with alone(model):
            short = limited(model, plain, captured.workloads.long["p"])
        if short.positions is not None:
            yield replace(captured, setting=short, workloads=within(short.positions))
    for tensors in KINDS[KINDS.index(plain.tensors) :]:
        if phase == "context":
            yield replace(captured, setting=replace(plain, tensors=tensors, fresh=True))
        elif not plain.rereads:
            yield replace(captured, setting=replace(plain, tensors=tensors, rereads=True))


def _trace_twice(model: nn.Module, captured: Capture, phase: str, branches: bool) -> Trace:
    workloads = captured.workloads
    first = run_concrete(model, captured, _at(workloads.long, phase))
    branches = branches or any(
        size.has(sympy.Min, sympy.floor, sympy.Mod)
        for leaf in captured.leaves
        for size in leaf.shape
    )
    sizes, whole = None, False
    if not branches:
        with contextlib.suppress(Unsettled, RuntimeError):
            sizes = _confirmed(model, captured, phase, first, workloads.short)
    if branches := sizes is None:
        try:
            sizes = _confirmed(model, captured, phase, first, workloads.odd)
        except Different:  # a rest of a block is work of its own: whole blocks, then
            sizes = _confirmed(model, captured, phase, first, workloads.again)
            whole = True
    elif sizes.has_parts and workloads.odd != workloads.short:
        with contextlib.suppress(Different):
            sizes = _confirmed(model, captured, phase, first, workloads.short, workloads.odd)
    long = _at(workloads.long, phase)
    longest = _longest(model, captured, first, long) if branches and phase == "context" else None
    return replace(
        _trace(model, captured, first, phase, sizes.expr, long),
        branches=branches,
        whole_blocks=whole,
        longest=longest,
        guards=(f"s <= {longest}",) if longest else (),
    )


def _longest(model: nn.Module, captured: Capture, first: Pass, at: Workload) -> int | None:
    """The most new tokens, in whole blocks, of a pass that makes the calls of `first`; None where a pass eight times as
    long makes them too, or is longer than the model's positions.
    """

    def same(blocks: int) -> bool:
        try:
            found = run_concrete(model, captured, {**at, "s": BLOCK * blocks}, expected=first.calls)
        except RealDataError:
            # Refused here, not by the model: tensors of another kind hold no data.
            if captured.setting.tensors != KINDS[-1]:
                raise
            return False
        except Exception:  # noqa: BLE001 - a pass that the model's code does not run is not that pass either
            return False
        return len(found.calls) == len(first.calls)

    low = at["s"] // BLOCK
    high = 8 * low
    if captured.setting.positions or same(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if same(middle) else (low, middle)
    return BLOCK * low


def _confirmed(
    model: nn.Module, captured: Capture, phase: str, first: Pass, *workloads: Workload
) -> ConcreteSizes:
    """The sizes of the long workload with every one confirmed at others."""
    others = [_at(workload, phase) for workload in workloads]
    passes = [run_concrete(model, captured, at, expected=first.calls) for at in others]
    if any(len(one.calls) != len(first.calls) for one in passes):
        raise Different("one workload ends before the other")
    sizes = ConcreteSizes(_at(captured.workloads.long, phase), *others)
    made = list(zip(*map(_made, (first, *passes)), strict=True))
    if any(len({t.dtype for t in same}) > 1 for same in made):
        raise Different("one workload computes in another dtype than the other")
    for found in {size for same in made for size in zip(*(t.shape for t in same), strict=True)}:
        sizes.add(*found)
    return sizes


def _made(one: Pass) -> list[torch.Tensor]:
    return [*one.inputs.values(), *(value for call in one.calls for value in call.values)]


def _at(workload: Workload, phase: str) -> dict[str, int]:
    return {**workload, "s": 1} if phase == "generation" else dict(workload)


def run_concrete(
    model: nn.Module, captured: Capture, at: Workload, *, expected: list[Call] | None = None
) -> Pass:
    """A recorded pass at a workload; `Different` where its calls are not those of another pass, `expected`."""
    with captured.setting.mode() as asked:
        found = _run(model, captured, at, expected)
    return replace(found, asked=tuple(sorted(asked)))


def _run(
    model: nn.Module,
    captured: Capture,
    at: Mapping[str, Any],
    expected: list[Call] | None = None,
) -> Pass:
    """Record a forward pass over a filled cache, over tensors of the mode the caller is in. A pass that only confirms
    the calls of another needs no origins.
    """
    device = next(model.parameters()).device
    values = _values(captured, at, device)
    fresh = captured.setting.fresh
    cache = None if fresh else rebuild(captured.template, values)
    ids = captured.setting.ids(model, at["b"], at["s"], at["p"])
    inputs = {"input_ids": ids}
    inputs |= {
        f"cache_{i}": v
        for i, v in enumerate(values.values())
        if isinstance(v, torch.Tensor) and not fresh
    }
    with alone(model), _whole_windows(), contextlib.ExitStack() as stack:
        recorder = Recorder(expected=expected)
        if expected is None:
            recorder = Recorder(stack.enter_context(provenance.recorded(model)))
        with recorder:
            logits, after = run(model, ids, cache)
    left = {path: value for path, value in leaves(after) if isinstance(value, torch.Tensor)}
    held = any(isinstance(value, torch.Tensor) for value in values.values())
    if captured.setting.rereads and held and logits.shape[1] != at["s"]:
        raise RuntimeError("the model takes the cached tokens for new ones")
    made = {id(value) for call in recorder.calls for value in call.values}
    return Pass(
        calls=recorder.calls,
        inputs=inputs,
        outputs=(logits, *left.values(), *(t for t in recorder.asked if id(t) in made)),
        cache=tuple(left),
    )


def _maker(node: fx.Node) -> fx.Node:
    """The call that made a value: calls that hand on what they are given (`to` of its own device) did not."""
    while isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable:
        given = [i for i in node.all_input_nodes if i.meta["val"] is node.meta["val"]]
        if not given:
            break
        node = given[0]
    return node


def _trace(
    model: nn.Module, captured: Capture, found: Pass, phase: str, expr: Callable, at: Mapping[str, int]
) -> Trace:  # fmt: skip
    names = {id(q): (name, q) for name, q in model.named_parameters()}
    made, parameters = graph(found.calls, found.inputs, found.outputs, names)
    outputs = made.output_node().args[0]
    written = {path: provenance.origin(_maker(node)).module
               for path, node in zip(found.cache, outputs[1:], strict=False) if node.op == "call_function"}  # fmt: skip
    windows = {f"cache_{i}": size for i, leaf in enumerate(captured.leaves)
               for size in leaf.shape if isinstance(size, sympy.Min)}  # fmt: skip
    return Trace(phase=phase, graph=made, parameters=parameters, expr=expr, traced_at=dict(at), cache=found.cache,
                 written=written, windows=windows, setting=captured.setting, asked=found.asked,
                 questions=tuple(outputs[1 + len(found.cache) :]))  # fmt: skip


def _values(captured: Capture, at: Mapping[str, Any], device: torch.device) -> dict:
    """Leaves of the cache at a workload; a windowed cache keeps every token here, the window is the op's parameter."""
    values: dict = {}
    for leaf in captured.leaves:
        if leaf.dtype is None:
            values[leaf.path] = _size(leaf.value, at)
        else:
            shape = [_size(P if isinstance(d, sympy.Min) else d, at) for d in leaf.shape]
            values[leaf.path] = torch.empty(shape, dtype=leaf.dtype, device=device)
    return values


def _size(expr: sympy.Expr, at: Mapping[str, Any]) -> Any:
    """A sympy expression of b and p as an integer, or as a symbolic one."""
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        return at[expr.name]
    if isinstance(expr, sympy.floor):
        numerator, denominator = expr.args[0].as_numer_denom()
        return _size(numerator, at) // int(denominator)
    parts = [_size(a, at) for a in expr.args]
    if isinstance(expr, sympy.Mod):
        return parts[0] % parts[1]
    result = parts[0]
    for part in parts[1:]:
        result = result + part if expr.is_Add else result * part
    return result


@contextlib.contextmanager
def _whole_windows() -> Iterator[None]:
    """Sliding-window cache layers keep all tokens: their token counter and cut are Python state that no graph
    can hold. A subclass that keeps tokens of its own besides adds those itself: what it asks of this class is of the
    tokens here alone.
    """
    sliding, whole = cache_utils.DynamicSlidingWindowLayer, cache_utils.DynamicLayer
    replaced: dict[str, Callable] = {
        "update": whole.update,
        "get_mask_sizes": lambda self, query_length: (whole.get_seq_length(self) + query_length, 0),
        "get_seq_length": whole.get_seq_length,
    }
    saved = {name: vars(sliding)[name] for name in replaced if name in vars(sliding)}
    for name in saved:
        setattr(sliding, name, replaced[name])
    try:
        yield
    finally:
        for name, original in saved.items():
            setattr(sliding, name, original)
