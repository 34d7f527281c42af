"""What a module of a model receives in a forward pass at a workload, without the rest of the model's weights.

Two passes make it. The first runs the traced model on sizes alone, over a cache of p tokens, and notes what each
module returns and what the wanted one is called with. The second runs on the device: the model's own code around the
wanted module makes masks, positions and token counts for real, and every other module that has weights hands back
random numbers of the sizes that the first pass saw. So masks, position embeddings and the state of the cache are those
of the full model, and activations and cached values are random.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from oplib.errors import UnsupportedModelError
from oplib.symbols import P
from tracer.build import quiet_transformers
from tracer.cache import Leaf, Path, at, is_cache_part, leaves, rebuild, run
from tracer.carried import Carried, beginning
from tracer.passes import Setting, alone
from tracer.tensors import tensors
from tracer.trace import Capture

META = torch.device("meta")
_STD = 0.02  # of parameters that the model's own initialisation leaves alone


@dataclass(slots=True, kw_only=True)
class Call:
    """Arguments of one call of a module, on its device, and the cache among them (None where it takes none)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    cache: Any  # a cache of transformers
    _holders: list[tuple[Any, Any]] = field(default_factory=list, repr=False)
    _states: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list, repr=False)

    def run(self, module: nn.Module) -> Any:
        """Call the module. The cache then holds the new tokens; `reset` takes them out."""
        with torch.no_grad():
            return module(*self.args, **self.kwargs)

    def reset(self) -> None:
        """Bring the cache back to p tokens: references are put back, and states of a fixed size copied back."""
        for holder, content in self._holders:
            if isinstance(holder, list):
                holder[:] = content
            else:
                holder.clear()
                holder.update(content)
        for state, before in self._states:
            state.copy_(before)

    def remember(self, states: Collection[Path]) -> None:
        """Note what `reset` puts back; `states` are the leaves of the cache that are written in place."""
        self._holders = [(h, copy.copy(h)) for h in _holders([self.args, self.kwargs], set())]
        self._states = [
            (value, value.clone())
            for path, value in leaves(self.cache)
            if path in states and isinstance(value, torch.Tensor)
        ]


def _holders(value: Any, seen: set[int]) -> Iterator[Any]:
    """The lists and dicts that a call may change: in its arguments, and those behind the parts of its cache."""
    if id(value) in seen or isinstance(value, torch.Tensor):
        return
    seen.add(id(value))
    children: Iterable[Any] = ()
    if isinstance(value, list | dict):
        yield value
    if isinstance(value, Mapping):
        children = [*value.values(), vars(value)] if hasattr(value, "__dict__") else value.values()
    elif isinstance(value, list | tuple):
        children = value
    elif is_cache_part(value) and hasattr(value, "__dict__"):
        children = [vars(value)]
    for child in children:
        yield from _holders(child, seen)


class _Reached(BaseException):
    """The wanted module is about to be called; no `except Exception` of a model stops it."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.found = args, kwargs


class _KeptNumbers(TorchFunctionMode):
    """Single numbers stay where they have a value when a pass over sizes alone would move them to meta."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and args[0].dim() == 0 and args[0].device != META:
            return args[0]
        return func(*args, **(kwargs or {}))


class Random:
    """Random values of given sizes on a device, from a seed."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def like(self, sized: torch.Tensor) -> torch.Tensor:
        """A tensor of the same shape, dtype and order in memory. Integers count along the last dim: choices of top-k
        differ and are in range.
        """
        if sized.device != META:
            return sized.to(self.device)
        shape, strides = list(sized.shape), list(sized.stride())
        order = sorted(range(len(shape)), key=lambda d: -strides[d])
        if 0 in strides:
            order = list(range(len(shape)))
        back = [order.index(d) for d in range(len(shape))]
        made = torch.empty(
            [shape[d] for d in order], dtype=sized.dtype, device=self.device
        ).permute(back)
        if made.is_floating_point():
            return made.normal_(generator=self._generator)
        if made.dtype is torch.bool or not shape:
            return made.zero_()
        return made.copy_(torch.arange(shape[-1], device=self.device).expand(shape))

    def tree(self, value: Any, caches: dict[int, Any]) -> Any:
        """A copy of what a module returned, tensors on meta replaced, caches exchanged for their counterparts."""
        if isinstance(value, torch.Tensor):
            return self.like(value)
        if id(value) in caches:
            return caches[id(value)]
        if isinstance(value, Mapping):
            made = copy.copy(value)
            if isinstance(made, MutableMapping):
                for key, child in list(value.items()):
                    made[key] = self.tree(child, caches)
            return made
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.tree(v, caches) for v in value))
        if isinstance(value, list | tuple):
            return type(value)(self.tree(v, caches) for v in value)
        return value


def materialise(
    model: nn.Module, path: str, device: torch.device, seed: int, *, deep: bool = True
) -> nn.Module:
    """Give the module at `path` memory on a device, in place, and the random values of the model's own initialisation.

    Modules that have values keep them. `deep=False` leaves the modules inside it alone.
    """
    module = model.get_submodule(path)
    initialise = _initialiser(model, path)
    parts = list(module.modules()) if deep else [module]
    fresh: list[tuple[str, torch.Tensor]] = []
    kept = set()
    with torch.no_grad(), torch.random.fork_rng(_devices(device)), quiet_transformers():
        torch.manual_seed(seed)
        for part in parts:
            own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
            if any(tensor.device == META for tensor in own):
                part.to_empty(device=device, recurse=False)
                fresh += [*part.named_parameters(type(part).__name__, recurse=False)]
                fresh += [*part.named_buffers(type(part).__name__, recurse=False)]
            elif own:
                part._apply(lambda tensor: tensor.to(device), recurse=False)
                kept.add(part)
        for _, tensor in fresh:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
        for part in reversed(parts):
            if part not in kept:
                initialise(part)
        around = _around(model, path)[1:]
        while around and _without_value(fresh):  # some models set a buffer from further out
            initialise(around.pop(0))
        for name, tensor in _without_value(fresh):
            if not isinstance(tensor, nn.Parameter):
                raise UnsupportedModelError(
                    f"The model's own code gives no value to the buffer {name} in {path}.",
                    "It cannot be built on its own.",
                )
            tensor.normal_(0.0, _STD)
    return module.requires_grad_(False)


def _without_value(fresh: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    return [(n, t) for n, t in fresh if t.is_floating_point() and t.isnan().any()]


def _around(model: nn.Module, path: str) -> list[nn.Module]:
    """A module and those it lies in, from the inside out."""
    steps = path.split(".") if path else []
    return [model.get_submodule(".".join(steps[:i])) for i in range(len(steps), -1, -1)]


def _devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


def _initialiser(model: nn.Module, path: str) -> Callable[[nn.Module], None]:
    """The initialisation of the innermost model of transformers that the path lies in."""
    around = _around(model, path)
    inside = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    owner = next((m for m in (*around, *inside) if isinstance(m, PreTrainedModel)), None)
    return owner._init_weights if owner is not None else lambda _module: None


def record(
    sized: nn.Module, model: nn.Module, path: str, *, b: int, s: int, p: int, layers: Mapping[str, int],
    capture: Capture, setting: Setting, device: torch.device, seed: int,
) -> Call:  # fmt: skip
    """The call of the module at `path` when s tokens run over p cached ones in each of b sequences.

    `sized` is the model on meta with boundaries and stand-ins in it, `model` the whole one on meta with the
    implementations to measure; both stay as they are. `layers` are the paths of its decoder layers, each with
    the index of its representative, `capture` is its cache, `setting` says how it runs on sizes alone.
    """
    random = Random(device, seed)
    sizes = _Sizes(sized, path, layers)
    ids = setting.ids(sized, b, s, p)
    with sizes.passes(setting):
        filled = _empty_cache(sized, capture)
        if p and not setting.rereads:
            filled = run(sized, setting.ids(sized, b, p))[1]
        sizes.part_slots(filled)
        cache = None if filled is None else _twin(filled, None, path, random)
        wanted = sizes.reach(ids, filled)
    with torch.no_grad(), quiet_transformers():
        caches = {} if filled is None else {id(filled): cache}
        around = _Surroundings(model, path, sizes.returned, random, caches, seed)
        around.build(layers)
        found = _reach(
            around.model, path, torch.zeros(ids.shape, dtype=ids.dtype, device=device), cache
        )
    merge = _Merge(path, random)
    args = tuple(merge(*pair) for pair in zip(wanted[0], found[0], strict=True))
    kwargs = {name: merge(wanted[1].get(name), value) for name, value in found[1].items()}
    call = Call(args=args, kwargs=kwargs, cache=merge.cache)
    call.remember({leaf.path for leaf in capture.leaves if _is_state(leaf)})
    return call


def _empty_cache(model: nn.Module, capture: Capture) -> Any:
    """What the first pass begins with where the model does not make it itself."""
    return beginning(model) if isinstance(capture.template, Carried) else None


def _is_state(leaf: Leaf) -> bool:
    """Whether a tensor of the cache is written in place: its size does not depend on the cached length."""
    return leaf.dtype is not None and not any(size.has(P) for size in leaf.shape)


def called(model: nn.Module, setting: Setting) -> frozenset[str]:
    """Paths of the modules that a pass over cached tokens calls, whatever the implementation."""
    sizes = _Sizes(model, "", {})
    with sizes.passes(setting):
        filled = None if setting.rereads else run(model, setting.ids(model, 2, 3))[1]
        ids = setting.ids(model, 2, 1, 3)
        sizes.noting(lambda: run(model, ids, filled))
    return frozenset(sizes.returned)


class _Sizes:
    """Passes over sizes alone: what each module returns, in order, up to the call of the wanted one."""

    def __init__(self, model: nn.Module, path: str, layers: Mapping[str, int]) -> None:
        self.model, self.path, self._layers = model, path, layers
        self.returned: dict[str, list[Any]] = defaultdict(list)

    @contextlib.contextmanager
    def passes(self, setting: Setting) -> Iterator[None]:
        """Where passes over sizes run."""
        with quiet_transformers(), alone(self.model), setting.mode(), _KeptNumbers():
            yield

    def reach(self, ids: torch.Tensor, cache: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the wanted module."""
        return self.noting(lambda: _reach(self.model, self.path, ids, cache))

    def noting(self, pass_: Callable[[], Any]) -> Any:
        """Run a pass, and note what each module returns."""
        handles = [
            module.register_forward_hook(lambda _m, _a, out, name=name: self.returned[name].append(out))
            for name, module in self.model.named_modules()
        ]  # fmt: skip
        for name in self._layers:
            hook = functools.partial(self._share_slot, name)
            module = self.model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            return pass_()
        finally:
            for handle in handles:
                handle.remove()

    def part_slots(self, cache: Any) -> None:
        """Give each stand-in a slot of its own in a cache, with what its representative has cached before this pass."""
        for name, first in self._layers.items():
            slots, i = self._slots(name, [cache])
            if slots and i != first:
                slots[i] = rebuild(slots[first], {})

    def _share_slot(
        self, name: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        slots, i = self._slots(name, [*args, *kwargs.values()])
        if slots:
            slots[i] = slots[self._layers[name]]

    def _slots(self, name: str, given: Iterable[Any]) -> tuple[list[Any], int]:
        """The list with a slot per layer in one of these caches, or an empty one, and a layer's place in it."""
        stack, _, index = name.rpartition(".")
        depth = sum(layer.rpartition(".")[0] == stack for layer in self._layers)
        caches = [
            c for g in given for c in (g.arguments.values() if isinstance(g, Carried) else [g])
        ]
        lists = [slots for c in caches if isinstance(slots := getattr(c, "layers", None), list)]
        return next((slots for slots in lists if len(slots) == depth), []), int(index)


def _reach(
    model: nn.Module, path: str, ids: torch.Tensor, cache: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args, kwargs)

    handle = model.get_submodule(path).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run(model, ids, cache)
    except _Reached as reached:
        return reached.found
    finally:
        handle.remove()
    raise ValueError(f"{path} is not called in this pass")


class _Surroundings:
    """A copy of the model in which the code around the wanted module runs for real on the device, and other modules
    with weights return random values of the sizes they are known to return.
    """

    def __init__(
        self, model: nn.Module, path: str, returned: Mapping[str, list[Any]], random: Random, caches: dict[int, Any],
        seed: int,
    ) -> None:  # fmt: skip
        self.model, self.path, self.returned = copy.deepcopy(model), path, returned
        self._random, self._caches, self._seed = random, caches, seed
        self._names = {id(m): name for name, m in self.model.named_modules()}

    def build(self, layers: Collection[str]) -> None:
        """Make every module fit to be called, or leave it alone where it is not."""
        self._visit(self.model, layers)

    def _visit(self, module: nn.Module, layers: Collection[str]) -> None:
        self._make(module, deep=False)
        for child in module.children():
            name = self._names[id(child)]
            if name == self.path:
                continue
            inside = [n for n in self.returned if n == name or n.startswith(name + ".")]
            if self.path.startswith(name + ".") or (inside and name not in inside):
                self._visit(child, layers)
            elif name not in layers and next(child.parameters(), None) is None:
                self._make(child, deep=True)
            elif inside:
                self._replace(child, name, is_layer=name in layers)

    def _make(self, module: nn.Module, *, deep: bool) -> None:
        materialise(self.model, self._names[id(module)], self._random.device, self._seed, deep=deep)

    def _replace(self, module: nn.Module, name: str, *, is_layer: bool) -> None:
        """Return random values in place of the module's own; a choice of experts, say, is made for real."""
        if not is_layer and any(not t.is_floating_point() for t in tensors(self.returned[name])):
            self._make(module, deep=True)
            return
        results = iter(self.returned[name])

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            return self._random.tree(next(results), self._caches)

        module.forward = forward


class _Merge:
    """Values of the pass on the device, and random ones for what only the pass over sizes has: what other layers left
    behind for the wanted module in this very pass.
    """

    def __init__(self, path: str, random: Random) -> None:
        self._path, self._random = path, random
        self._caches: dict[int, Any] = {}

    @property
    def cache(self) -> Any:
        """The cache among what was merged, or None."""
        return next(iter(self._caches.values()), None)

    def __call__(self, sized: Any, found: Any) -> Any:
        if isinstance(found, torch.Tensor) or sized is None:
            return found
        if isinstance(found, MutableMapping):
            made = copy.copy(found)
            for key, value in sized.items():
                made[key] = self(value, made[key]) if key in made else self._random.tree(value, {})
            return made
        if isinstance(found, list | tuple) and not hasattr(found, "_fields"):
            return type(found)(self(a, c) for a, c in zip(sized, found, strict=True))
        if is_cache_part(found):
            if id(sized) not in self._caches:
                self._caches[id(sized)] = _twin(sized, found, self._path, self._random)
            return self._caches[id(sized)]
        return found


def _twin(cache: Any, known: Any, module: str, random: Random) -> Any:
    """A copy of a cache on the device. Tensors are those of the cache `known` of the right size, else random.

    Tensors of one size in layers other than the module's own are one tensor: they are only read, if at all.
    """
    values: dict[Path, torch.Tensor] = {}
    made: dict[Any, torch.Tensor] = {}
    for path, value in leaves(cache):
        if not isinstance(value, torch.Tensor):
            continue
        old = at(known, path)
        if isinstance(old, torch.Tensor) and old.shape == value.shape:
            values[path] = old
            continue
        layer = next((step for step in path if isinstance(step, int)), None)
        key: Any = path
        if layer is not None and str(layer) not in module.split("."):
            place = path.index(layer)
            key = (*path[:place], None, *path[place + 1 :], value.shape, value.dtype)
        if key not in made:
            made[key] = random.like(value)
        values[path] = made[key]
    twin = rebuild(cache, values)
    for holder in _holders([twin], set()):
        if isinstance(holder, dict):
            for name, value in holder.items():
                if value == META:
                    holder[name] = random.device
    return twin
