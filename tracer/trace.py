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
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import cache_utils

from oplib.symbols import P
from tracer import boundaries, provenance
from tracer.cache import Leaf, Path, infer, leaves, rebuild, run
from tracer.recorder import Call, Recorder, graph
from tracer.sizes import (
    LONG,
    LONG_AGAIN,
    LONG_ODD,
    SHORT,
    ConcreteSizes,
    Different,
    Unsettled,
    Workload,
)
from tracer.symbolic import SymbolicSizes

POINTS = ((2, 390), (3, 517), (3, 1290), (5, 131_071), (2, 3))
PHASES = ("context", "generation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """The cache a context pass leaves: an example to copy, and its leaves as real passes leave them.

    `fake` says that the model asks its tensors for values, which meta tensors refuse and fake ones do not.
    """

    template: Any  # a cache object of transformers
    leaves: tuple[Leaf, ...]
    fake: bool = False


@dataclass(slots=True, kw_only=True)
class Trace:
    """One phase: its graph, the parameter behind each `get_attr` node, and what its sizes rest on.

    `written` names the module that made each tensor of the cache that the pass leaves, where a call of its own did;
    `windows` the length that the cache of a window really has, by the input that holds every token here.

    `expr` turns a size of this trace into an expression of b, s, p. `branches` says that short sequences take other
    branches than the traced one; `guards` are the conditions, known where the trace was symbolic.
    """

    phase: str
    graph: fx.Graph
    parameters: dict[str, tuple[str, nn.Parameter]]
    expr: Callable[[int | torch.SymInt], sympy.Expr]
    traced_at: dict[str, int]
    branches: bool = False
    guards: tuple[str, ...] = ()
    written: dict[Path, str] = field(default_factory=dict)
    windows: dict[str, sympy.Min] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One recorded forward pass: its calls, its input and output tensors."""

    calls: list[Call]
    inputs: dict[str, torch.Tensor]
    outputs: tuple[torch.Tensor, ...]
    cache: tuple[Path, ...]  # where each output after the first lies in the cache
    windows: dict[str, sympy.Min]


def capture(model: nn.Module) -> Capture:
    """Run context passes on sizes alone and read the cache's sizes off them."""
    device = next(model.parameters()).device

    def fill(b: int, p: int) -> Any:
        return run(model, torch.zeros(b, p, dtype=torch.long, device=device))[1]

    def fill_fake(b: int, p: int) -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return fill(b, p)

    with torch.no_grad(), boundaries.bind(model), state_kept(model):
        try:
            template, found = infer(fill, POINTS)
            return Capture(template=template, leaves=found)
        except RuntimeError:
            template, found = infer(fill_fake, POINTS)
    return Capture(template=template, leaves=found, fake=True)


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
    if not symbolic:
        with contextlib.suppress(Unsettled):
            return _trace_concrete(model, captured, phase, branches)
    sizes = SymbolicSizes(phase)
    with sizes.mode():
        found = _run(model, captured, sizes.values)
    hints = {
        name: value if isinstance(value, int) else value.node.hint
        for name, value in sizes.values.items()
    }
    guards = sizes.guards()
    return _trace(model, found, phase, sizes.expr, hints, branches=bool(guards), guards=guards)


def _trace_concrete(model: nn.Module, captured: Capture, phase: str, branches: bool) -> Trace:
    try:
        return _trace_twice(model, captured, phase, branches)
    except RuntimeError:
        if captured.fake:
            raise
        return _trace_twice(model, replace(captured, fake=True), phase, branches)


def _trace_twice(model: nn.Module, captured: Capture, phase: str, branches: bool) -> Trace:
    first = _run_concrete(model, captured, _at(LONG, phase))
    branches = branches or any(
        size.has(sympy.Min, sympy.floor, sympy.Mod)
        for leaf in captured.leaves
        for size in leaf.shape
    )
    if not branches:
        with contextlib.suppress(Unsettled, RuntimeError):
            return _confirmed(model, captured, phase, first, SHORT)
    try:
        found = _confirmed(model, captured, phase, first, LONG_ODD)
    except Different:  # a rest of a block is work of its own: whole blocks, then
        found = _confirmed(model, captured, phase, first, LONG_AGAIN)
    found.branches = True
    return found


def _confirmed(
    model: nn.Module, captured: Capture, phase: str, first: Pass, workload: Workload
) -> Trace:
    """The trace at LONG with every size confirmed at another workload."""
    long, other = _at(LONG, phase), _at(workload, phase)
    second = _run_concrete(model, captured, other, expected=first.calls)
    if len(second.calls) != len(first.calls):
        raise Different("one workload ends before the other")
    sizes = ConcreteSizes(long, other)
    pairs = zip(_made(first), _made(second), strict=True)
    for size, match in {pair for a, b in pairs for pair in zip(a.shape, b.shape, strict=True)}:
        sizes.add(size, match)
    return _trace(model, first, phase, sizes.expr, long, branches=False)


def _made(one: Pass) -> list[torch.Tensor]:
    return [*one.inputs.values(), *(value for call in one.calls for value in call.values)]


def _at(workload: Workload, phase: str) -> dict[str, int]:
    return {**workload, "s": 1} if phase == "generation" else dict(workload)


def _run_concrete(
    model: nn.Module, captured: Capture, at: Workload, *, expected: list[Call] | None = None
) -> Pass:
    fake = FakeTensorMode(allow_non_fake_inputs=True) if captured.fake else contextlib.nullcontext()
    with fake:
        return _run(model, captured, at, expected)


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
    ids = torch.zeros(at["b"], at["s"], dtype=torch.long, device=device)
    values = _values(captured, at, device)
    inputs = {"input_ids": ids}
    inputs |= {
        f"cache_{i}": v for i, v in enumerate(values.values()) if isinstance(v, torch.Tensor)
    }
    windows = {
        f"cache_{i}": size
        for i, leaf in enumerate(captured.leaves)
        for size in leaf.shape
        if isinstance(size, sympy.Min)
    }
    cache = rebuild(captured.template, values)
    with torch.no_grad(), _tracing(model), contextlib.ExitStack() as stack:
        recorder = Recorder(expected=expected)
        if expected is None:
            recorder = Recorder(stack.enter_context(provenance.recorded(model)))
        with recorder:
            logits, after = run(model, ids, cache)
    left = {path: value for path, value in leaves(after) if isinstance(value, torch.Tensor)}
    return Pass(
        calls=recorder.calls,
        inputs=inputs,
        outputs=(logits, *left.values()),
        cache=tuple(left),
        windows=windows,
    )


def _trace(
    model: nn.Module, found: Pass, phase: str, expr: Callable, at: dict[str, int], *, branches: bool,
    guards: tuple[str, ...] = (),
) -> Trace:  # fmt: skip
    names = {id(q): (name, q) for name, q in model.named_parameters()}
    made, parameters = graph(found.calls, found.inputs, found.outputs, names)
    outputs = made.output_node().args[0]
    written = {path: provenance.origin(node).module
               for path, node in zip(found.cache, outputs[1:], strict=True) if node.op == "call_function"}  # fmt: skip
    return Trace(phase=phase, graph=made, parameters=parameters, expr=expr, traced_at=at, branches=branches,
                 guards=guards, written=written, windows=found.windows)  # fmt: skip


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
def _tracing(model: nn.Module) -> Iterator[None]:
    with state_kept(model), _whole_windows(), boundaries.bind(model):
        yield


@contextlib.contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """What a forward pass leaves on its modules (tables of positions, say) is gone afterwards."""
    saved = [(vars(m), dict(vars(m)), m._buffers, dict(m._buffers)) for m in model.modules()]
    try:
        yield
    finally:
        for attributes, before, buffers, buffers_before in saved:
            buffers.clear()
            buffers.update(buffers_before)
            attributes.clear()
            attributes.update(before)


@contextlib.contextmanager
def _whole_windows() -> Iterator[None]:
    """Sliding-window cache layers keep all tokens: their token counter and cut are Python state that no graph
    can hold.
    """
    sliding, whole = cache_utils.DynamicSlidingWindowLayer, cache_utils.DynamicLayer
    names = ("update", "get_mask_sizes", "get_seq_length")
    saved = {name: vars(sliding)[name] for name in names if name in vars(sliding)}
    for name in saved:
        setattr(sliding, name, getattr(whole, name))
    try:
        yield
    finally:
        for name, original in saved.items():
            setattr(sliding, name, original)
