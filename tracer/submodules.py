"""The distinct parts of a decoder as real modules, with the inputs they receive in the model: what can be measured.

A sub-module is a decoder layer, or a part of one that does attention, experts, an MLP, a recurrence or a norm; one for
each representative layer. Only its own weights are ever made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedConfig

from oplib.errors import InvalidInputError
from oplib.op import Op
from tracer import analysis, assemble, rewrite
from tracer.boundaries import IMPLEMENTATION
from tracer.build import build_model
from tracer.match import match
from tracer.match.flow import Flow
from tracer.passes import Setting
from tracer.prune import Kept
from tracer.submodule_inputs import Call, called, materialise, record
from tracer.trace import PHASES
from tracer.weights import Weights

Role: TypeAlias = Literal["layer", "attention", "moe", "mlp", "mixer", "norm"]
Json = dict[str, Any]  # Any: an object that becomes JSON
_REDUCTIONS = frozenset(
    {"mean", "var", "rsqrt", "norm", "rms_norm", "layer_norm", "native_layer_norm"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """How a module is built: dtype of its weights, and the names that transformers knows its kernels by."""

    dtype: torch.dtype = torch.bfloat16
    attn: str = "sdpa"
    experts: str = "grouped_mm"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubModule:
    """One distinct part of a decoder.

    `name` is its path in the full model, `layer` the layer it lies in, which stands for `count` layers that each hold
    `alike` such parts. Weights are in the dtype that it is built with: a checkpoint's quantisation is not applied.
    """

    name: str
    role: Role
    module_class: str
    layer: str
    count: int
    alike: int
    source: _Source

    @property
    def weight_bytes(self) -> int:
        """Bytes of its parameters in the dtype that the model is traced in, bfloat16."""
        module = self.source.traced.model.get_submodule(self.name)
        return sum(q.numel() * q.dtype.itemsize for q in module.parameters())

    def build(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16,
        attn_implementation: str = "sdpa", seed: int = 0, *, experts_implementation: str = "grouped_mm",
    ) -> nn.Module:  # fmt: skip
        """The module on a device, in eval mode, with random weights of the model's own initialisation."""
        how = Implementation(dtype=dtype, attn=attn_implementation, experts=experts_implementation)
        model = copy.deepcopy(self.source.model(how))
        return materialise(model, self.name, _device(device), seed).eval()

    def inputs(
        self, phase: str, b: int, s: int = 1, p: int = 0, device: torch.device | str = "cpu", *,
        dtype: torch.dtype = torch.bfloat16, attn_implementation: str = "sdpa",
        experts_implementation: str = "grouped_mm", seed: int = 0,
    ) -> Call:  # fmt: skip
        """What the module is called with: s new tokens (one in generation) over p cached ones, in b sequences each.

        Hidden states and cached values are random; masks, positions and the state of the cache are the model's. Build
        the module with the same dtype and implementations.
        """
        if phase not in PHASES:
            raise InvalidInputError(f"No phase {phase!r}.", f"One of {', '.join(PHASES)}.")
        if b < 1 or s < 1 or p < 0:
            raise InvalidInputError(
                f"b={b}, s={s}, p={p} is no workload.", "b, s at least 1, p at least 0."
            )
        how = Implementation(dtype=dtype, attn=attn_implementation, experts=experts_implementation)
        source, s = self.source, 1 if phase == "generation" else s
        setting = source.traced.traces[phase].setting
        _check(setting, s, p)
        return record(
            source.model(replace(how, attn=IMPLEMENTATION, experts=IMPLEMENTATION)), source.model(how), self.name,
            b=b, s=s, p=p, layers=source.layers, capture=source.traced.capture, setting=setting,
            device=_device(device), seed=seed,
        )  # fmt: skip

    def ops(self, phase: str, lowering: str = "eager") -> tuple[Op, ...]:
        """The ops that lie inside, each with the number of times that one call runs it.

        An op that a lowering made of work inside and of the lines around it, such as a norm and the addition before
        it, lies inside; one that also does the work of another part does not.
        """
        return tuple(
            replace(op, count=op.count // self.count)
            for op in self.source.ops(phase, lowering)
            if op.layer == self.layer and _belongs(op.where, self.name)
        )

    def to_json(self, lowering: str = "eager") -> Json:
        """What `--submodules --json` prints of it."""
        return {
            "name": self.name,
            "role": self.role,
            "class": self.module_class,
            "layer": self.layer,
            "count": self.count,
            "alike": self.alike,
            "weight_bytes": self.weight_bytes,
            "ops": {
                phase: [f"{op.op} {op.name}" for op in self.ops(phase, lowering)]
                for phase in PHASES
            },
        }


class _Source:
    """A traced model, its ops, and the model under each implementation."""

    def __init__(self, traced: analysis.Traced) -> None:
        self.traced = traced
        self.layers = {
            f"{kept.layer.stack}.{i}": kept.layer.representative
            for kept in traced.pruning.kept
            for i in kept.layer.indices
        }
        self.called = called(traced.model, traced.traces["generation"].setting)
        self._models: dict[Implementation, nn.Module] = {}
        self._ops: dict[tuple[str, str], tuple[Op, ...]] = {}

    def model(self, how: Implementation) -> nn.Module:
        """The model on meta; not to be changed. With boundaries in it, it has the stand-ins of the traced one."""
        traced = self.traced
        boundaries = how.attn == how.experts == IMPLEMENTATION
        if boundaries and how.dtype == torch.bfloat16:
            return traced.model
        if how not in self._models:
            model = build_model(
                traced.resolved, dtype=how.dtype, attn_implementation=how.attn, experts_implementation=how.experts
            )  # fmt: skip
            if boundaries:
                traced.pruning.put_stand_ins(model)
            self._models[how] = model
        return self._models[how]

    def ops(self, phase: str, lowering: str) -> tuple[Op, ...]:
        """The op list of a phase under a lowering."""
        if (phase, lowering) not in self._ops:
            traced = self.traced
            weights = Weights(model=traced.model, pruning=traced.pruning, scheme=traced.scheme)
            matched = match(Flow(traced.traces[phase], traced.pruning))
            assemble.set_modes(matched, weights)
            rewrite.lower(matched, lowering, without=("fuse_across_layers",))
            self._ops[phase, lowering] = assemble.ops(matched, weights)
        return self._ops[phase, lowering]

    def inside(self, path: str) -> list[Op]:
        """The ops inside a module, of either phase, as written and as served."""
        return [
            op
            for lowering in ("eager", "serving")
            for phase in PHASES
            for op in self.ops(phase, lowering)
            if op.where and all(_inside(place, path) for place in op.where)
        ]


def submodules(
    model_path: str, *, configure: Callable[[PreTrainedConfig], None] | None = None, **source: Any
) -> list[SubModule]:
    """The distinct sub-modules of a model; `source` is what `tracer.analysis.trace_model` takes.

    `configure` changes the config of the language model, in place, before it is built: other widths, say, or the
    share of heads that one of several GPUs holds.
    """
    traced = analysis.trace_model(model_path, configure=configure, **source)
    return submodules_of(traced)


def submodules_of(traced: analysis.Traced) -> list[SubModule]:
    """The distinct sub-modules of a traced model, layer by layer: the whole layer first, then its parts."""
    source = _Source(traced)
    return [found for kept in traced.pruning.kept for found in _of_layer(source, kept)]


def _of_layer(source: _Source, kept: Kept) -> Iterator[SubModule]:
    model = source.traced.model
    alike: dict[Any, list[tuple[str, Role]]] = {}
    for path, role in _parts(source, kept, kept.id):
        module = model.get_submodule(path)
        shapes = [(n, tuple(q.shape), q.dtype) for n, q in module.named_parameters()]
        alike.setdefault((role, type(module), repr(shapes)), []).append((path, role))
    found = [(kept.id, "layer", 1), *((m[0][0], m[0][1], len(m)) for m in alike.values())]
    for path, role, number in found:
        yield SubModule(
            name=path, role=role, layer=kept.id, count=kept.layer.count,
            alike=number, module_class=type(model.get_submodule(path)).__name__, source=source,
        )  # fmt: skip


def _parts(source: _Source, kept: Kept, path: str) -> Iterator[tuple[str, Role]]:
    """The parts of a module that the model calls and that have a role of their own, and those roles."""
    model = source.traced.model
    for name, _ in model.get_submodule(path).named_children():
        part = f"{path}.{name}"
        ops = source.inside(part)
        role = _role(ops) if part in source.called else None
        if role is not None and not _is_block(source, part, role):
            yield part, role
        elif ops and (role is not None or part not in source.called):
            yield from _parts(source, kept, part)


def _role(ops: Collection[Op]) -> Role | None:
    """What a module with these ops is; None where it only does pointwise work."""
    roles = {op.kind.role for op in ops}
    if "scan" in roles or any(op.op == "causal_conv1d" for op in ops):
        return "mixer"
    if "attention" in roles:
        return "attention"
    if "moe" in roles:
        return "moe"
    if "compute" in roles:
        return "mlp"
    functions = {f for op in ops for f in str(op.params.get("functions", "")).split("+")}
    return "norm" if functions & _REDUCTIONS else None


def _is_block(source: _Source, path: str, role: Role) -> bool:
    """Whether a module is a layer within a layer: it does two things, or one part of it does what gives it its role
    and there are two or more products beside that part.
    """
    ops = source.inside(path)
    named = {"attention", "scan", "moe"} & {op.kind.role for op in ops}
    if len(named) > 1:
        return True
    if role not in ("attention", "mixer"):
        return False
    products = {op for op in map(_key, ops) if op[0] == "gemm"}
    for child, _ in source.traced.model.get_submodule(path).named_children():
        within = source.inside(f"{path}.{child}")
        own = {op for op in map(_key, within) if op[0] == "gemm"}
        whole = {_key(op) for op in ops if op.kind.role in named}
        if own and whole and whole <= set(map(_key, within)) and len(products - own) > 1:
            return True
    return False


def _key(op: Op) -> tuple[str, str, tuple[str, ...]]:
    return op.op, op.name, op.where


def _belongs(places: tuple[str, ...], path: str) -> bool:
    beneath = [place for place in places if not _inside(path, place) or place == path]
    return bool(beneath) and all(_inside(place, path) for place in beneath)


def _inside(place: str, path: str) -> bool:
    return place == path or place.startswith(path + ".")


def _check(setting: Setting, s: int, p: int) -> None:
    """Refuse lengths at which the model does not run."""
    if setting.positions is not None and p + s > setting.positions:
        raise InvalidInputError(
            f"The model runs over {setting.positions} positions at most, not {p + s}.",
            "Choose a smaller s + p.",
        )
    if setting.fresh and p:
        raise InvalidInputError(
            "The model takes one token at a time over a cache.",
            "Choose p = 0 in the context phase.",
        )


def _device(device: torch.device | str) -> torch.device:
    found = torch.device(device)
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found
