"""From a pruned model to one graph per phase, symbolic in b (batch), s (new tokens) and p (cached tokens).

The graph comes from `make_fx` at the pre-dispatch level over fake tensors: what `torch.export` runs inside, without its
second pass, its input constraints and its guards' code. It keeps `linear` and the boundaries whole.

Sizes: the model is traced at two concrete workloads, one long and one short, and every size is read off the
pair (`tracer.sizes`). Where the short one takes other branches (windows, top-k), a second long one confirms
instead. Where two workloads do not settle every size, the model is traced once more with symbols
(`tracer.symbolic`), which is slower. Both phases of DeepSeek-V3 on two cores: 3.3 s with `torch.export`, 1.4 s
with symbols, 0.7 s with two workloads each.

Both phases run over a cache that holds p tokens already: context with s new tokens (p = 0 gives a fresh prompt),
generation with one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import cache_utils
from transformers.exporters.exporter_dynamo import reset_model_state

from oplib.symbols import P
from tracer import boundaries, provenance
from tracer.cache import Leaf, infer, leaves, rebuild, run
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
    """The cache a context pass leaves: an example to copy, and its leaves as real passes leave them."""

    template: Any  # a cache object of transformers
    leaves: tuple[Leaf, ...]


@dataclass(slots=True, kw_only=True)
class Trace:
    """One phase: its graph, the parameter behind each `get_attr` node, and what its sizes rest on.

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


def capture(model: nn.Module) -> Capture:
    """Run context passes on sizes alone and read the cache's sizes off them."""
    device = next(model.parameters()).device

    def fill(b: int, p: int) -> Any:
        return run(model, torch.zeros(b, p, dtype=torch.long, device=device))[1]

    def fill_fake(b: int, p: int) -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return fill(b, p)

    with torch.no_grad(), boundaries.bind(model):
        try:
            template, found = infer(fill, POINTS)
        except RuntimeError:
            template, found = infer(fill_fake, POINTS)
    return Capture(template=template, leaves=found)


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
        try:
            return _trace_twice(model, captured, phase, branches)
        except Unsettled:
            pass
    sizes = SymbolicSizes(phase)
    with sizes.mode():
        module = _run(model, captured, sizes.values)
    hints = {
        name: value if isinstance(value, int) else value.node.hint
        for name, value in sizes.values.items()
    }
    guards = sizes.guards()
    return _trace(model, module, phase, sizes.expr, hints, branches=bool(guards), guards=guards)


def _trace_twice(model: nn.Module, captured: Capture, phase: str, branches: bool) -> Trace:
    long = _at(LONG, phase)
    module = _run_concrete(model, captured, long)
    branches = branches or any(
        size.has(sympy.Min, sympy.floor, sympy.Mod)
        for leaf in captured.leaves
        for size in leaf.shape
    )
    if not branches:
        with contextlib.suppress(Unsettled, RuntimeError):
            return _confirmed(model, captured, phase, module, SHORT)
    try:
        found = _confirmed(model, captured, phase, module, LONG_ODD)
    except Different:  # a rest of a block is work of its own: whole blocks, then
        found = _confirmed(model, captured, phase, module, LONG_AGAIN)
    found.branches = True
    return found


def _confirmed(
    model: nn.Module, captured: Capture, phase: str, module: fx.GraphModule, workload: Workload
) -> Trace:
    """The trace at LONG with every size confirmed at another workload."""
    long, other = _at(LONG, phase), _at(workload, phase)
    sizes = _compare(module, long, _run_concrete(model, captured, other, quick=True), other)
    return _trace(model, module, phase, sizes.expr, long, branches=False)


def _at(workload: Workload, phase: str) -> dict[str, int]:
    return {**workload, "s": 1} if phase == "generation" else dict(workload)


def _compare(
    first: fx.GraphModule, at: Workload, second: fx.GraphModule, other: Workload
) -> ConcreteSizes:
    """The sizes of two traces of the same operators."""
    sizes = ConcreteSizes(at, other)
    if len(first.graph.nodes) != len(second.graph.nodes):
        raise Different("the two workloads run different operators")
    for a, b in zip(first.graph.nodes, second.graph.nodes, strict=True):
        if a.op != b.op or (a.op == "call_function" and a.target is not b.target):
            raise Different(f"{a.name} and {b.name} are different operators")
        for x, y in zip(_tensors(a), _tensors(b), strict=True):
            for size, match in zip(x.shape, y.shape, strict=True):
                sizes.add(size, match)
    return sizes


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return [v for v in values if isinstance(v, torch.Tensor)]


def _run_concrete(
    model: nn.Module, captured: Capture, at: Workload, *, quick: bool = False
) -> fx.GraphModule:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _run(model, captured, at, with_origins=not quick)


def _run(
    model: nn.Module, captured: Capture, at: Mapping[str, Any], *, with_origins: bool = True
) -> fx.GraphModule:
    """Trace a forward pass over a filled cache, inside the fake tensor mode of the caller."""
    device = next(model.parameters()).device
    with torch.no_grad(), _tracing(model, with_origins):
        ids = torch.zeros(at["b"], at["s"], dtype=torch.long, device=device)
        values = _values(captured, at, device)
        paths = [path for path, v in values.items() if isinstance(v, torch.Tensor)]

        def forward(input_ids: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cache = rebuild(captured.template, values | dict(zip(paths, tensors, strict=True)))
            logits, after = run(model, input_ids, cache)
            return (logits, *(v for _, v in leaves(after) if isinstance(v, torch.Tensor)))

        traced = make_fx(
            forward, tracing_mode="real", pre_dispatch=True, _allow_non_fake_inputs=True
        )
        return traced(ids, *(values[path] for path in paths))


def _trace(
    model: nn.Module, module: fx.GraphModule, phase: str, expr: Callable, at: dict[str, int], *, branches: bool,
    guards: tuple[str, ...] = (),
) -> Trace:  # fmt: skip
    names = {id(q): name for name, q in model.named_parameters()}
    parameters = {}
    for node in module.graph.find_nodes(op="get_attr"):
        value = getattr(module, node.target)
        if id(value) in names:
            parameters[node.name] = (names[id(value)], value)
    return Trace(phase=phase, graph=module.graph, parameters=parameters, expr=expr, traced_at=at, branches=branches,
                 guards=guards)  # fmt: skip


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
def _tracing(model: nn.Module, with_origins: bool) -> Iterator[None]:
    origins = provenance.recorded(model) if with_origins else contextlib.nullcontext()
    with reset_model_state(model), _whole_windows(), boundaries.bind(model), origins:
        yield


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
