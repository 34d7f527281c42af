"""Representative layers: one layer kept for each distinct layer structure, and the proof that nothing is lost.

Two layers have the same structure when their module trees agree in classes, parameter shapes and scalar attributes
(other than the layer's own index), and the config's per-layer entries agree. The proof: no parameter is shared between
layers or with the rest of the model, so that kept layers times counts, plus the rest, is the full parameter count.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from oplib.oplist import Layer

_SCALAR = (int, float, str, bool, type(None))
_BOOKKEEPING = {"training", "_is_hf_initialized", "call_super_init", "_version"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A representative layer and the path it has in the pruned model."""

    layer: Layer
    traced: str

    @property
    def id(self) -> str:
        """The representative's path in the full model."""
        return f"{self.layer.stack}.{self.layer.representative}"


@dataclass(slots=True, kw_only=True)
class Pruning:
    """What was kept. `reason` says why the whole depth is traced instead, and is empty where pruning was proved."""

    kept: tuple[Kept, ...]
    parameters: int
    reason: str = ""

    def of(self, module: str) -> Kept | None:
        """The representative that a module or parameter path of the pruned model lies in."""
        for kept in self.kept:
            if module == kept.traced or module.startswith(kept.traced + "."):
                return kept
        return None

    def count(self, module: str) -> int:
        """How many times the full model holds what lies at this path of the pruned model."""
        kept = self.of(module)
        return kept.layer.count if kept else 1

    def original(self, module: str) -> str:
        """The path in the full model of a path in the pruned model."""
        kept = self.of(module)
        return kept.id + module[len(kept.traced) :] if kept else module


def stacks(model: nn.Module, depth: int) -> list[tuple[str, nn.ModuleList]]:
    """The outermost module lists with one element per decoder layer, with their paths."""
    found: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(stack + ".") for stack, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside:
            found.append((path, module))
    return found


def prune(
    model: nn.Module, label: Callable[[str, nn.Module], Any] | None = None, *, whole: bool = False
) -> Pruning:
    """Cut each stack of `model` down to its representative layers, in place, or leave it whole and say why.

    `label(path, layer)` adds to a layer's structure what the module does not show, such as its quantisation. `whole`
    leaves every layer in place.
    """
    total = sum(p.numel() for p in model.parameters())
    configs = {
        id(c): c for c in (getattr(m, "config", None) for m in model.modules()) if c is not None
    }.values()
    depth = int(
        getattr(model.config, "num_hidden_layers", None) or 0
    )  # configs name it so, or not at all
    found = stacks(model, depth) if depth else []
    if not found:
        return Pruning(kept=(), parameters=total, reason="no stack of decoder layers was found")
    lists = _per_layer_lists(configs, depth)
    indices = [_index_attributes(stack) for _, stack in found]
    keys = [tuple(_structure(stack[i], index) for (_, stack), index in zip(found, indices, strict=True))
            + tuple(repr(values[i]) for _, _, values in lists)
            + tuple(label(f"{path}.{i}", stack[i]) for path, stack in found if label)
            for i in range(depth)]  # fmt: skip
    groups: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    kept = [members[0] for members in groups.values()]
    reason = _sharing(model, found) or _index_logic(found, indices)
    if reason or whole:
        groups, kept = {i: [i] for i in range(depth)}, list(range(depth))
    layers = tuple(Kept(layer=_layer(path, stack, members), traced=f"{path}.{j}")
                   for path, stack in found for j, members in enumerate(groups.values()))  # fmt: skip
    if len(kept) < depth:
        _cut(found, indices, lists, configs, kept)
    return Pruning(kept=layers, parameters=total, reason=reason)


def _layer(path: str, stack: nn.ModuleList, members: list[int]) -> Layer:
    return Layer(
        stack=path,
        cls=type(stack[members[0]]).__name__,
        representative=members[0],
        count=len(members),
        indices=tuple(members),
    )


def _per_layer_lists(configs, depth: int) -> list[tuple[Any, str, Any]]:
    return [
        (config, name, value)
        for config in configs
        for name, value in sorted(vars(config).items())
        if isinstance(value, list | tuple)
        and len(value) == depth
        and list(value) != list(range(depth))
    ]


def _scalars(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(module).items()):
        if name in _BOOKKEEPING:
            continue
        plain = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(v, _SCALAR) for v in plain):
            yield name, value
        elif callable(value) and not isinstance(value, nn.Module):
            yield name, getattr(value, "__qualname__", type(value).__qualname__)


def _index_attributes(stack: nn.ModuleList) -> dict[tuple[str, str], int]:
    """Attributes that hold the layer's own index plus a constant: (module, name) -> constant."""
    columns = [
        {(path, name): value for path, m in layer.named_modules() for name, value in _scalars(m)
         if type(value) is int} for layer in stack
    ]  # fmt: skip
    seen: dict[tuple[str, str], set[int]] = {}
    for i, column in enumerate(columns):
        for key, value in column.items():
            seen.setdefault(key, set()).add(value - i)
    return {key: offsets.pop() for key, offsets in seen.items() if len(offsets) == 1 and len(stack) > 1
            and _varies(columns, key)}  # fmt: skip


def _varies(columns: list[dict[tuple[str, str], int]], key: tuple[str, str]) -> bool:
    """Whether the attribute is an index: on two layers at least, or on the one layer that has it by its name."""
    holders = [c[key] for c in columns if key in c]
    return len(holders) > 1 or key[1] in ("layer_idx", "layer_number", "layer_id", "idx")


def _structure(layer: nn.Module, index: dict[tuple[str, str], int]) -> tuple:
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


def _sharing(model: nn.Module, found: list[tuple[str, nn.ModuleList]]) -> str:
    """Why layers cannot be counted by multiplication: a parameter of two of them, or of one and the rest; else ""."""
    owner: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        stack = next((path for path, _ in found if name.startswith(path + ".")), None)
        home = "" if stack is None else ".".join(name.split(".")[: stack.count(".") + 2])
        if owner.setdefault(id(parameter), home) != home:
            return f"{name} is shared between {owner[id(parameter)] or 'the model'} and {home or 'the model'}"
    return ""


def _index_logic(
    found: list[tuple[str, nn.ModuleList]], indices: list[dict[tuple[str, str], int]]
) -> str:
    """Where a layer computes with its own index outside its constructor: layers that look alike then differ."""
    for (_, stack), index in zip(found, indices, strict=True):
        for path, name in index:
            types: set[Any] = {type(m) for la in stack for p, m in la.named_modules() if p == path}
            for cls in sorted(types, key=lambda c: c.__name__):
                if _computes_with(cls, name):
                    return f"{cls.__name__} computes with its layer's index ({name})"
    return ""


@functools.cache
def _computes_with(cls: Any, name: str) -> bool:
    """Whether a method of a class other than its constructor compares or calculates with `self.<name>`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return False
    methods = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name != "__init__"]
    sums = [n for m in methods for n in ast.walk(m) if isinstance(n, ast.BinOp | ast.Compare)]
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


def _cut(found, indices, lists, configs, kept: list[int]) -> None:
    for config, name, values in lists:
        setattr(config, name, type(values)(values[i] for i in kept))
    for config in configs:
        if getattr(config, "num_hidden_layers", None) is not None:
            config.num_hidden_layers = len(kept)
    for (_, stack), index in zip(found, indices, strict=True):
        layers = [stack[i] for i in kept]
        for j, layer in enumerate(layers):
            for path, module in layer.named_modules():
                for name in [n for p, n in index if p == path and n in vars(module)]:
                    setattr(module, name, j + index[path, name])
        stack._modules.clear()
        stack.extend(layers)


def full_parameters(pruned: nn.Module, pruning: Pruning) -> int:
    """Parameters of the full model, recomputed from the pruned one: kept layers times counts, plus the rest."""
    return sum(p.numel() * pruning.count(name) for name, p in pruned.named_parameters())
