"""Representative layers: one layer runs for each distinct layer structure, and the proof that nothing is lost.

Two layers have the same structure when their module trees agree in classes, parameter shapes and scalar attributes
(other than the layer's own index), and the config's per-layer entries agree. The first layer of each structure stays
as it is; the others pass their input on (`tracer/stand_in.py`). The model around them, its cache and its config keep
their full depth, so what is sized or chosen by depth needs no care, and what the model computes between layers is
recorded as often as it runs. The proof: each parameter of the full model is counted under one parameter of a
representative or of the rest, and the sums agree.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from oplib.oplist import Layer
from tracer import layer_calls
from tracer.stand_in import StandIns

_SCALAR = (int, float, str, bool, type(None))
_BOOKKEEPING = {"training", "_is_hf_initialized", "call_super_init", "_version"}
#: How configs name a number of layers, and modules their place among them.
_DEPTH = re.compile(r"(^|_)layers?(_per_[a-z]+)?$")
_INDEX = re.compile(r"(^|_)(idx|index|id|i|number|layer|seed)$")

#: Entries of a config that are as many as layers by chance.
_NOT_LAYERS = re.compile(r"token|label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A representative layer."""

    layer: Layer

    @property
    def id(self) -> str:
        """Its path in the model."""
        return f"{self.layer.stack}.{self.layer.representative}"


@dataclass(slots=True, kw_only=True)
class Pruning:
    """What was kept. `reason` says why the whole depth is traced instead, and is empty where pruning was proved;
    `compared` why that took the calls of every layer.

    `copies` says how many distinct parameters of the full model one of the pruned model stands for: its layer's count,
    or fewer where layers share it.
    """

    kept: tuple[Kept, ...]
    parameters: int
    reason: str = ""
    compared: str = ""
    copies: dict[str, int] = field(default_factory=dict)
    stand_ins: StandIns | None = None
    _by_path: dict[str, Kept] = field(init=False)
    _stands_for: dict[str, str] = field(init=False)
    _known: dict[str, Kept | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_path = {kept.id: kept for kept in self.kept}
        self._stands_for = {
            f"{k.layer.stack}.{i}": k.id for k in self.kept for i in k.layer.indices
        }

    def of(self, module: str) -> Kept | None:
        """The representative that a module or parameter path lies in."""
        if module not in self._known:
            paths = (*prefixes(module), module)
            self._known[module] = next(
                (self._by_path[p] for p in paths if p in self._by_path), None
            )
        return self._known[module]

    def count(self, module: str) -> int:
        """How many times the full model runs what lies at this path, for each time that the pruned one does."""
        kept = self.of(module)
        return kept.layer.count if kept else 1

    def standing(self, name: str) -> str:
        """The parameter of the pruned model that stands for one of the full model."""
        layer = next((p for p in prefixes(name) if p in self._stands_for), "")
        return self._stands_for[layer] + name[len(layer) :] if layer else name

    def _stacks(self) -> dict[str, list[Kept]]:
        """The representatives of each stack."""
        found: dict[str, list[Kept]] = {}
        for kept in self.kept:
            found.setdefault(kept.layer.stack, []).append(kept)
        return found

    def stack_of(self, depth: int) -> list[Kept]:
        """The representatives of the first stack of so many layers."""
        found = self._stacks().values()
        return next((s for s in found if sum(k.layer.count for k in s) == depth), [])

    def put_stand_ins(self, model: nn.Module) -> StandIns:
        """Stand-ins in a model of the same layers, in place of all that have a representative."""
        found = self._stacks().items()
        return StandIns(model, [(model.get_submodule(path), [list(k.layer.indices) for k in kept])
                                for path, kept in found])  # fmt: skip

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the context, every layer is itself again."""
        if self.stand_ins is None:
            yield
            return
        with self.stand_ins.withdrawn():
            yield


def prefixes(name: str) -> Iterator[str]:
    """The modules that a module or parameter lies in, outermost first."""
    steps = name.split(".")
    return (".".join(steps[:i]) for i in range(1, len(steps)))


def configs_of(model: nn.Module) -> list[Any]:
    """The distinct configs of a model's modules."""
    found = (getattr(m, "config", None) for m in model.modules())
    return list({id(c): c for c in found if c is not None}.values())


def stacks(model: nn.Module, depths: Iterable[int]) -> list[tuple[str, nn.ModuleList]]:
    """The outermost module lists that are as long as a config says the model is deep, with their paths."""
    found: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(stack + ".") for stack, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) in depths and not inside:
            found.append((path, module))
    return found


def _depths(configs: Iterable[Any]) -> set[int]:
    named = [(c, name) for c in configs for name in vars(c) if _DEPTH.search(name)]
    named += [(c, "num_hidden_layers") for c in configs]  # a property in some
    values = [getattr(config, name, None) for config, name in named]
    return {value for value in values if type(value) is int and value > 0}


def prune(
    model: nn.Module, label: Callable[[str, nn.Module], Any] | None = None, *, whole: bool = False
) -> Pruning:
    """Put stand-ins in place of all but the first layer of each structure, or leave the model whole and say why.

    `label(path, layer)` adds to a layer's structure what the module does not show, such as its quantisation. `whole`
    leaves every layer in place.
    """
    total = sum(p.numel() for p in model.parameters())
    configs = configs_of(model)
    found = stacks(model, _depths(configs))
    if not found:
        return Pruning(kept=(), parameters=total, reason="no stack of decoder layers was found")
    indices = {path: _index_attributes(stack) for path, stack in found}
    groups = {path: _groups(path, stack, indices[path], configs, label) for path, stack in found}
    reason, compared = "" if whole else _index_logic(found, indices), ""
    if reason:
        with contextlib.suppress(
            Exception
        ):  # what a pass raises shows again where the whole depth runs
            groups, compared, reason = layer_calls.split(model, groups), reason, ""
    if reason or whole:
        groups = {path: [[i] for i in range(len(stack))] for path, stack in found}
    pruning = Pruning(
        kept=tuple(Kept(layer=_layer(path, stack, members))
                   for path, stack in found for members in groups[path]),
        parameters=total, reason=reason, compared=compared,
    )  # fmt: skip
    pruning.copies = dict(Counter(pruning.standing(name) for name, _ in model.named_parameters()))
    pruning.stand_ins = pruning.put_stand_ins(model)
    return pruning


def _groups(
    path: str,
    stack: nn.ModuleList,
    index: set[tuple[str, str]],
    configs: Iterable[Any],
    label: Callable[[str, nn.Module], Any] | None,
) -> list[list[int]]:
    """Indices of layers with the same structure, in order of the first."""
    entries = _per_layer_entries(configs, len(stack))
    groups: dict[Any, list[int]] = {}
    for i, layer in enumerate(stack):
        key = (_structure(layer, index), *(repr(values[i]) for values in entries),
               label(f"{path}.{i}", layer) if label else None)  # fmt: skip
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _layer(path: str, stack: nn.ModuleList, members: list[int]) -> Layer:
    return Layer(
        stack=path,
        cls=type(stack[members[0]]).__name__,
        representative=members[0],
        count=len(members),
        indices=tuple(members),
    )


def _per_layer_entries(configs: Iterable[Any], depth: int) -> list[Any]:
    """Lists and mappings of the configs with one entry per layer."""
    found: list[Any] = []
    for config in configs:
        for name, value in sorted(vars(config).items()):
            if (
                isinstance(value, list | tuple)
                and len(value) == depth
                and not _NOT_LAYERS.search(name)
            ):
                if list(value) != list(range(depth)):
                    found.append(value)
            elif (
                isinstance(value, Mapping)
                and set(value) == set(range(depth))
                and not _NOT_LAYERS.search(name)
            ):
                found.append(value)
    return found


def _scalars(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(module).items()):
        if name in _BOOKKEEPING:
            continue
        plain = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(v, _SCALAR) for v in plain):
            yield name, value
        elif callable(value) and not isinstance(value, nn.Module):
            yield name, getattr(value, "__qualname__", type(value).__qualname__)


def _index_attributes(stack: nn.ModuleList) -> set[tuple[str, str]]:
    """Attributes, (module, name), that are named like an index and grow evenly from layer to layer."""
    seen: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for i, layer in enumerate(stack):
        for path, module in layer.named_modules():
            for name, value in vars(module).items():
                if type(value) is int and _INDEX.search(name):
                    seen.setdefault((path, name), []).append((i, value))
    return {key for key, pairs in seen.items() if _grows_evenly(pairs)}


def _grows_evenly(pairs: list[tuple[int, int]]) -> bool:
    """Values by layer. Of one layer alone, which nothing else is compared with, no growth is known."""
    (start, first), (end, last) = pairs[0], pairs[-1]
    return last > first and all(
        (v - first) * (end - start) == (last - first) * (i - start) for i, v in pairs
    )


def _structure(layer: nn.Module, index: set[tuple[str, str]]) -> tuple:
    modules = tuple(
        (
            path,
            type(m).__qualname__,
            tuple((n, repr(v)) for n, v in _scalars(m) if (path, n) not in index),
        )
        for path, m in layer.named_modules()
    )
    tensors = tuple(
        (n, tuple(p.shape), p.dtype) for n, p in [*layer.named_parameters(), *layer.named_buffers()]
    )
    return modules, tensors


def _index_logic(
    found: list[tuple[str, nn.ModuleList]], indices: Mapping[str, set[tuple[str, str]]]
) -> str:
    """Where a layer computes with its own index outside its constructor: layers that look alike then differ."""
    for at, stack in found:
        for path, name in sorted(indices[at]):
            types: set[Any] = {type(m) for la in stack for p, m in la.named_modules() if p == path}
            for cls in sorted(types, key=lambda c: c.__name__):
                if _computes_with(cls, name):
                    return f"{cls.__name__} computes with its layer's index ({name})"
    return ""


@functools.cache
def _computes_with(cls: Any, name: str) -> bool:
    """Whether a method of a class other than its constructor compares or calculates with `self.<name>`; a call is
    handed the index, or a sum of it, to look something up.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return False
    methods = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name != "__init__"]
    handed = {id(a) for m in methods for n in ast.walk(m) if isinstance(n, ast.Call)
              for a in n.args if isinstance(a, ast.BinOp) and isinstance(a.op, ast.Add)}  # fmt: skip
    sums = [n for m in methods for n in ast.walk(m)
            if isinstance(n, ast.BinOp | ast.Compare) and id(n) not in handed]  # fmt: skip
    return any(
        isinstance(n, ast.Attribute) and n.attr == name and getattr(n.value, "id", "") == "self"
        for part in sums
        for n in _operands(part)
    )


def _operands(expression: ast.AST) -> Iterator[ast.AST]:
    """Parts of an expression, without what is only handed to a call or used to look something up."""
    yield expression
    if isinstance(expression, ast.Call):
        return
    for child in ast.iter_child_nodes(expression):
        if not (isinstance(expression, ast.Subscript) and child is expression.slice):
            yield from _operands(child)


def full_parameters(pruned: nn.Module, pruning: Pruning) -> int:
    """Parameters of the full model, recomputed from the pruned one: each times the parameters it stands for."""
    return sum(p.numel() * pruning.copies.get(name, 1 if not pruning.kept else 0)
               for name, p in pruned.named_parameters())  # fmt: skip
