"""The cache as data: found in a real pass, its sizes turned into expressions of batch and cached length.

A cache is any object that the model returns as `past_key_values` or `cache_params`, or what it carries in another way
(`tracer.carried`). Its *leaves* are the tensors, and the integers that count tokens, anywhere inside it. `infer` runs
the model at a few workloads and reads the expression of each size off the differences; a size that no expression
explains at every workload raises instead of being guessed.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from oplib.symbols import B, P
from tracer.carried import Carried, beginning, next_pass

_PLAIN = (str, bytes, bool, float, torch.dtype, torch.device, type(None), type)
_WITHOUT_CACHE: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()  # known from their first pass
_REFUSE_A_CACHE: weakref.WeakSet[torch.nn.Module] = (
    weakref.WeakSet()
)  # those that run with `use_cache=False` alone
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One tensor (shape as expressions, dtype) or one token counter (shape empty, `dtype` None, `value`) of a cache.

    `since` is how many tokens it takes until the tensor is there, where its size does not say so.
    """

    path: Path
    shape: tuple[sympy.Expr, ...]
    dtype: torch.dtype | None
    value: sympy.Expr | None = None
    since: int = 0

    @property
    def bytes(self) -> sympy.Expr:
        """Bytes of the tensor for the whole batch; 0 for a counter."""
        if not self.dtype:
            return sympy.Integer(0)
        there = sympy.Min(1, sympy.floor(P / self.since)) if self.since > 1 else 1
        return sympy.Mul(*self.shape) * self.dtype.itemsize * there


def run(
    model: torch.nn.Module, input_ids: torch.Tensor, cache: Any = None
) -> tuple[torch.Tensor, Any]:
    """Logits and cache of one forward pass, whatever name the model has for its cache and wherever it keeps it."""
    if model in _REFUSE_A_CACHE:
        return model(input_ids=input_ids, use_cache=False).logits, Carried(arguments={}, held={})
    if isinstance(cache, Carried):
        return next_pass(model, input_ids, cache)
    if model in _WITHOUT_CACHE:
        return next_pass(model, input_ids, beginning(model))
    taken = inspect.signature(type(model).forward).parameters
    name = (
        "cache_params"
        if "cache_params" in taken and "past_key_values" not in taken
        else "past_key_values"
    )
    given = {} if cache is None else {name: cache}
    out = model(input_ids=input_ids, use_cache=True, **given)
    if hasattr(out, name):
        return out.logits, getattr(out, name)
    _WITHOUT_CACHE.add(model)
    return next_pass(model, input_ids, beginning(model))


def ask_for_none(model: torch.nn.Module) -> None:
    """From here on passes ask the model for no cache."""
    _REFUSE_A_CACHE.add(model)


def leaves(cache: Any) -> Iterator[tuple[Path, torch.Tensor | int]]:
    """Tensors and integers inside `cache`, each object once, in a stable order."""
    yield from _walk(cache, (), {})


def _walk(
    value: Any, path: Path, seen: dict[int, Any]
) -> Iterator[tuple[Path, torch.Tensor | int]]:
    if isinstance(value, _PLAIN) or id(value) in seen:
        return
    if isinstance(value, torch.Tensor | int | torch.SymInt):
        if isinstance(value, torch.Tensor):
            seen[id(value)] = value
        yield path, value
        return
    seen[id(value)] = value
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, list | tuple):
        children = list(enumerate(value))
    elif is_cache_part(value):
        children = list(vars(value).items())
    else:
        return
    for key, child in children:
        yield from _walk(child, (*path, key), seen)


def is_cache_part(value: Any) -> bool:
    """Whether an object is a cache, or a part of one, by its class's name or module."""
    return any(
        c is Carried or "cache" in c.__module__ or c.__name__.endswith(("Cache", "Layer"))
        for c in type(value).__mro__[:-1]
    )


def at(cache: Any, path: Path) -> Any:
    """What lies at the path of a leaf, or None. Two paths may hold one tensor, which `leaves` gives once."""
    value: Any = cache
    for step in path:
        try:
            items: Any = value if isinstance(value, Mapping | list | tuple) else vars(value)
            value = items[step]
        except (LookupError, TypeError):
            return None
    return value


def rebuild(template: Any, values: Mapping[Path, Any]) -> Any:
    """A copy of `template` whose leaves are `values`; everything else is shared or copied shallowly."""
    return _rebuild(template, (), values, {})


def _rebuild(value: Any, path: Path, values: Mapping[Path, Any], done: dict[int, Any]) -> Any:
    if path in values:
        done[id(value)] = values[path]
        return values[path]
    if isinstance(value, (*_PLAIN, int)):
        return value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, list | tuple):
        done[id(value)] = result = type(value)(
            _rebuild(v, (*path, i), values, done) for i, v in enumerate(value)
        )
        return result
    if isinstance(value, Mapping) or is_cache_part(value):
        done[id(value)] = result = copy.copy(value)
        items = result if isinstance(value, Mapping) else vars(result)
        for key, child in list(items.items()):
            items[key] = _rebuild(child, (*path, key), values, done)
        return result
    return value


def infer(
    fill: Callable[[int, int], Any], points: Sequence[tuple[int, int]]
) -> tuple[Any, tuple[Leaf, ...]]:
    """The cache that `fill(batch, cached)` leaves at the first point, and its leaves with sizes as expressions.

    Integers that do not change from point to point are settings, not counters, and are left out. A part that only
    longer sequences have (compressed keys, say) is read off the points that have it, and so is one whose width is zero.
    From which length on a part of constant size is there is found by halving.
    """
    caches = [fill(b, p) for b, p in points]
    parts = functools.cache(lambda p: dict(leaves(fill(1, p))))
    columns = [dict(leaves(c)) for c in caches]
    found = []
    for path, example in columns[0].items():
        held = [(c[path], point) for c, point in zip(columns, points, strict=True) if _has(c, path)]
        if not held and isinstance(example, torch.Tensor) and example.dim() > 1:
            held = [(c[path], at) for c, at in zip(columns, points, strict=True) if path in c]
        values: list[Any] = [v for v, _ in held]
        where = [point for _, point in held]
        if not held:
            continue
        if isinstance(example, torch.Tensor):
            shape = tuple(
                expression([v.shape[d] for v in values], where) for d in range(example.dim())
            )
            since = 0
            if not any(size.has(P) for size in shape):
                since = _since(path, parts, points, where)
            leaf = Leaf(path=path, shape=shape, dtype=example.dtype, since=since)
            limited = cut(caches[0], leaf)
            found.append(limited if _explains(limited, held) else leaf)
        elif len(set(values)) > 1:
            found.append(Leaf(path=path, shape=(), dtype=None, value=expression(values, where)))
    return caches[0], tuple(found)


def _since(
    path: Path,
    parts: Callable[[int], Mapping[Path, Any]],
    points: Sequence[tuple[int, int]],
    where: Sequence[tuple[int, int]],
) -> int:
    """The fewest tokens at which a part is there that is at `where` alone; 0 where it is at every point."""
    without = max((p for b, p in points if (b, p) not in where), default=0)
    least = min(p for _, p in where)
    if not without or without > least:
        return 0
    while least - without > 1:
        middle = (without + least) // 2
        without, least = (without, middle) if _has(parts(middle), path) else (middle, least)
    return least


def _explains(leaf: Leaf, held: Sequence[tuple[torch.Tensor, tuple[int, int]]]) -> bool:
    """Whether its sizes are those of these tensors at their points."""
    return all(
        tuple(size.subs({B: b, P: p}) for size in leaf.shape) == tuple(value.shape)
        for value, (b, p) in held
    )


def cut(cache: Any, leaf: Leaf) -> Leaf:
    """The leaf with the length that its layer of the cache cuts it to, however short or long that is: the layer's own
    update, given more tokens than its window, says what it keeps.
    """
    layer, axis = at(cache, leaf.path[:-1]), len(leaf.shape) - 2
    if not isinstance(layer, DynamicSlidingWindowLayer) or leaf.path[-1] not in ("keys", "values"):
        return leaf
    many = layer.sliding_window + 1
    filled = copy.copy(layer)
    new = [t.new_empty(*t.shape[:axis], many, t.shape[-1]) for t in (layer.keys, layer.values)]
    filled.update(*new)
    longest = filled.keys.shape[axis]
    if longest >= many + layer.keys.shape[axis]:
        return leaf
    shape = list(leaf.shape)
    shape[axis] = sympy.Min(P, longest)
    return replace(leaf, shape=tuple(shape))


def _has(column: Mapping[Path, Any], path: Path) -> bool:
    """Whether a cache has this part: a tensor without elements stands for none."""
    value = column.get(path)
    return value is not None and not (isinstance(value, torch.Tensor) and value.numel() == 0)


def expression(sizes: Sequence[int], points: Sequence[tuple[int, int]]) -> sympy.Expr:
    """The simplest of: constant, b, linear in p, floor(p / r), p mod r, min(p + c, limit) that gives `sizes` at
    `points`.
    """
    for candidate in _candidates(sizes, points):
        if all(
            candidate.subs({B: b, P: p}) == size for size, (b, p) in zip(sizes, points, strict=True)
        ):
            return candidate
    raise ValueError(
        f"cache sizes {list(sizes)} at (batch, cached) {list(points)} follow no known form"
    )


def _candidates(sizes: Sequence[int], points: Sequence[tuple[int, int]]) -> Iterator[sympy.Expr]:
    first, (b, p) = sizes[0], points[0]
    yield sympy.Integer(first)
    yield B
    yield B * sympy.Rational(first, b)
    yield P + (first - p)
    smallest, (_, near) = min(zip(sizes, points, strict=True), key=lambda pair: pair[1][1])
    yield sympy.Min(P + (smallest - near), max(sizes))
    largest, (_, far) = max(zip(sizes, points, strict=True), key=lambda pair: pair[1][1])
    if 0 < largest < far:
        ratio = round(far / largest)
        yield sympy.floor(P / ratio)
        for offset in {size - point[1] // ratio for size, point in zip(sizes, points, strict=True)}:
            yield sympy.floor(P / ratio) + offset
    period = math.gcd(*(point[1] - size for size, point in zip(sizes, points, strict=True)))
    yield from (sympy.Mod(P, d) for d in sympy.divisors(period) if d > max(sizes))
