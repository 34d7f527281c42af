"""Conservation: nothing counted twice, nothing lost.

Weights: weight bytes of ops, of primitives and of idle parameters (`tracer/idle.py`), times counts, are the model's
parameter bytes. FLOPs: under
`eager`, ops' FLOPs are what `torch.utils.flop_counter.FlopCounterMode` counts for the same forward, run on
sizes alone with eager attention and one product per chosen expert (`batched_mm`), so that no packet hides work
from the counter. Scans and short convolutions stay boundaries in that forward, the counter does not see them,
and their work is reported as uncounted. Nodes: each is in one op, one pointwise cluster, one free group, or is
a primitive.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from oplib.op import Op
from oplib.symbols import evaluate
from tracer import boundaries
from tracer import cache as caches
from tracer.cache import Leaf, run
from tracer.match.claim import Matched
from tracer.passes import PLAIN, Setting
from tracer.prune import Pruning, configs_of

WORKLOAD = {"b": 2, "s": 641, "p": 259}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the counter saw at a workload. `by_pass` says that p tokens of one pass are cached otherwise than those of
    several.
    """

    b: int
    s: int
    p: int
    flops: int
    by_pass: bool = False


def count_flops(
    model: nn.Module, pruning: Pruning, setting: Setting = PLAIN, held: Sequence[Leaf] = ()
) -> dict[str, Counted]:
    """FLOPs by torch's counter, each kept layer times its count: new tokens over cached ones, then one step more.

    The cache is filled as it is for a trace: over an empty one a model may take another branch. A model whose eager
    attention takes no more than one token over a filled cache runs a fresh prompt instead. `held` are the leaves that
    one pass over p tokens leaves: where two passes leave other sizes, the step runs over the cache of one.
    """
    b, s, p = _counted_at(setting)
    by_pass = False
    bound = boundaries.bind(model, written_out=True)
    with torch.no_grad(), as_written(model), bound, setting.mode():
        try:
            context, cache = _count_over(model, pruning, setting, b, s, p)
        except RuntimeError:  # its mask does not fit: the length comes off a layer without keys
            p = 0
            context, cache = _count_over(model, pruning, setting, b, s, p)
        if p and not _is_of_one_pass(cache, held, b, p + s):
            by_pass, cache = True, run(model, setting.ids(model, b, p + s))[1]
        generation, _ = _count(model, pruning, setting.ids(model, b, 1, p + s), cache)
    return {
        "context": Counted(b=b, s=s, p=p, flops=context),
        "generation": Counted(b=b, s=1, p=p + s, flops=generation, by_pass=by_pass),
    }


def _is_of_one_pass(cache: Any, held: Sequence[Leaf], b: int, p: int) -> bool:
    """Whether a cache of p tokens has the sizes that a pass over all of them leaves."""
    return all(
        evaluate(size, b=b, p=p) == found
        for leaf in held
        if isinstance(tensor := caches.at(cache, leaf.path), torch.Tensor)
        for size, found in zip(leaf.shape, tensor.shape, strict=True)
    )


def _counted_at(setting: Setting) -> tuple[int, int, int]:
    """Batch, new and cached tokens of the count: as many as the model has positions for."""
    b, s, p = WORKLOAD["b"], WORKLOAD["s"], WORKLOAD["p"]
    if setting.positions is not None and setting.positions <= s + p:
        p = setting.positions // 4
        s = setting.positions - p - 1
    return b, s, 0 if setting.fresh else p


def _count_over(
    model: nn.Module, pruning: Pruning, setting: Setting, b: int, s: int, p: int
) -> tuple[int, Any]:
    filled = run(model, setting.ids(model, b, p))[1] if p else None
    return _count(model, pruning, setting.ids(model, b, s, p), filled)


def _count(
    model: nn.Module,
    pruning: Pruning,
    input_ids: torch.Tensor,
    cache: Any = None,  # Any: a cache of transformers
) -> tuple[int, Any]:
    counter = FlopCounterMode(display=False)
    extra = 0
    starts: dict[int, int] = {}
    handles = []
    for kept in pruning.kept:
        layer = model.get_submodule(kept.id)

        def enter(module: nn.Module, _args: Any) -> None:
            starts[id(module)] = counter.get_total_flops()

        def leave(
            module: nn.Module, _args: Any, _out: Any, times: int = kept.layer.count - 1
        ) -> None:
            nonlocal extra
            extra += times * (counter.get_total_flops() - starts[id(module)])

        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        with counter:
            _, after = run(model, input_ids, cache)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() + extra, after


@contextlib.contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Eager attention, and experts as one product per chosen expert."""
    saved = [
        (c, c._attn_implementation, getattr(c, "_experts_implementation", None))
        for c in configs_of(model)
    ]
    for config, _, _ in saved:
        config._attn_implementation = "eager"
        config._experts_implementation = "batched_mm"
    try:
        yield
    finally:
        for config, attention, experts in saved:
            config._attn_implementation = attention
            config._experts_implementation = experts


def flops(
    ops: dict[str, tuple[Op, ...]], counted: dict[str, Counted], primitives: dict[str, int]
) -> dict:
    """The `flops` object of a report, both phases together, and each."""
    phases = {}
    for phase, at in counted.items():
        seen = sum(
            o.count * o.flops_at(b=at.b, s=at.s, p=at.p) for o in ops[phase] if o.kind.counted
        )
        unseen = sum(
            o.count * o.flops_at(b=at.b, s=at.s, p=at.p) for o in ops[phase] if not o.kind.counted
        )
        phases[phase] = {
            "workload": {"b": at.b, "s": at.s, "p": at.p},
            "counter": at.flops,
            "ops": round(seen),
            "primitives": round(primitives.get(phase, 0)),
            "uncounted": round(unseen),
        }
    total = {
        key: sum(p[key] for p in phases.values())
        for key in ("counter", "ops", "primitives", "uncounted")
    }
    return {**total, "phases": phases}


def nodes(matched: dict[str, Matched]) -> dict[str, int]:
    """How many traced nodes each group holds. A node in no group, or in two, breaks the sum."""
    groups: Counter[str] = Counter()
    for found in matched.values():
        groups["total"] += len(found.flow.nodes)
        for claim in found.claims:
            groups["pointwise" if claim.kind == "pointwise" else "ops"] += len(claim.nodes)
        groups["free"] += len(found.free)
        groups["primitive"] += len(found.primitives)
    return {key: groups[key] for key in ("total", "ops", "pointwise", "free", "primitive")}


def kept(
    before: Matched, owned: set[fx.Node], written: tuple[Op, ...], lowered: tuple[Op, ...]
) -> bool:
    """Whether a lowering lost nothing: every node that an op owned is in an op or free, and weights are the same."""
    after = before.owner
    placed = all(node in after or node in before.free for node in owned)
    return placed and sum(o.get_weights() for o in written) == sum(o.get_weights() for o in lowered)


def report(
    weight: dict[str, int], flop: dict, node: dict[str, int], *, lowering_kept: bool
) -> dict:
    """The `conservation` object. Exact means: equal to the last byte and FLOP in each phase, every node in one place,
    and nothing lost by the lowering.
    """
    exact = (
        lowering_kept
        and weight["model"] == weight["ops"] + weight["primitives"] + weight["idle"]
        and all(p["counter"] == p["ops"] + p["primitives"] for p in flop["phases"].values())
        and node["total"] == node["ops"] + node["pointwise"] + node["free"] + node["primitive"]
    )
    return {"weights": weight, "flops": flop, "nodes": node, "exact": exact}
