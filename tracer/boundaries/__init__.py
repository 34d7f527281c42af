"""Calls the tracer keeps as one node: attention, experts and the functions transformers marks as kernels.

Each file defines one custom operator (`torch.ops.trace_model.<name>`) with a fake implementation only, and says
which call of transformers it stands for. `bind(model)` puts function boundaries in place of the functions of the
same name in the modules that define the model's classes, method boundaries in place of methods of the same name and
arguments, and block boundaries in place of statements of a forward pass; attention and experts are selected by name
through transformers' own registries (`IMPLEMENTATION`), to which `adopt(model)` adds modules that are not behind them.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tracer.method_blocks import Find, with_call

IMPLEMENTATION = "trace_model"

_LIBRARY = torch.library.Library("trace_model", "DEF")
_FUNCTIONS: dict[str, Callable] = {}
_METHODS: dict[tuple[str, ...], Callable] = {}
_BLOCKS: dict[Find, tuple[Callable, Callable]] = {}  # the boundary, and what it stands for
#: Where the independent parts of an operator lie: see `define`.
SPLITS: dict[str, dict[str, int | tuple[int, ...]]] = {}
_ADOPTIONS: list[Callable[[torch.nn.Module], None]] = []


def define(
    schema: str, fake: Callable, *, split: dict[str, int | tuple[int, ...]] | None = None
) -> Callable:
    """The operator `trace_model::<name>` with the given schema, shapes from `fake`, and no computation.

    `split` says along which axis of each argument, and of its results `out0`, `out1`, ..., the operator's independent
    parts (heads, channels) lie; several where one step has another form. What is not named is needed whole.
    """
    name = schema.split("(", 1)[0]
    if split:
        SPLITS[name] = split
    _LIBRARY.define(schema)
    torch.library.register_fake(f"trace_model::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.trace_model, name)


def replaces(*names: str) -> Callable[[Callable], Callable]:
    """Register a function as the boundary for kernel functions of these names in transformers' modeling files."""

    def register(function: Callable) -> Callable:
        for name in names:
            if name in _FUNCTIONS:
                raise RuntimeError(
                    f"kernel function {name!r} has two boundaries: "
                    f"{_FUNCTIONS[name].__module__} and {function.__module__}"
                )
            _FUNCTIONS[name] = function
        return function

    return register


def replaces_method(name: str, *arguments: str) -> Callable[[Callable], Callable]:
    """Register a function as the boundary for methods of this name whose first arguments after `self` are these."""

    def register(function: Callable) -> Callable:
        if (name, *arguments) in _METHODS:
            raise RuntimeError(
                f"method {name}({', '.join(arguments)}) has two boundaries: "
                f"{_METHODS[(name, *arguments)].__module__} and {function.__module__}"
            )
        _METHODS[(name, *arguments)] = function
        return function

    return register


def replaces_block(
    find: Find, *, written_out: Callable | None = None
) -> Callable[[Callable], Callable]:
    """Register a function as the boundary for the block of a `forward` that `find` sees in its syntax tree.
    `written_out` computes the same with torch's own products, where the work of the block is counted by them.
    """

    def register(function: Callable) -> Callable:
        _BLOCKS[find] = (function, written_out or function)
        return function

    return register


def adopts(function: Callable[[torch.nn.Module], None]) -> Callable[[torch.nn.Module], None]:
    """Register a function that gives modules of a form the model's choice of implementation, as `adopt` does."""
    _ADOPTIONS.append(function)
    return function


def adopt(model: torch.nn.Module) -> None:
    """Give modules that transformers has not put behind its registries the model's choice of implementation."""
    for adoption in _ADOPTIONS:
        adoption(model)


@contextlib.contextmanager
def bind(model: torch.nn.Module, *, written_out: bool = False) -> Iterator[None]:
    """Within the context, kernel functions that the model's modeling files call are boundaries, and so are methods
    and blocks of its classes; `written_out`, blocks whose products torch's counter knows are these products.
    """
    with contextlib.ExitStack() as stack:
        for owner, name, boundary in [*_functions(model), *_methods(model, written_out)]:
            stack.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, boundary)
        yield


def _functions(model: torch.nn.Module) -> Iterator[tuple[Any, str, Callable]]:
    for module in {sys.modules[type(m).__module__] for m in model.modules()}:
        for name, boundary in _FUNCTIONS.items():
            if callable(vars(module).get(name)):
                yield module, name, boundary


def _methods(model: torch.nn.Module, written_out: bool) -> Iterator[tuple[Any, str, Callable]]:
    classes = {c for m in model.modules() for c in type(m).__mro__ if _of_a_model(c)}
    for owner in classes:
        for (name, *arguments), boundary in _METHODS.items():
            method = vars(owner).get(name)
            if callable(method) and _takes(method, arguments):
                yield owner, name, boundary
        for find, forms in _BLOCKS.items():
            method = vars(owner).get("forward")
            if method and (changed := with_call(method, find, forms[written_out])):
                yield owner, "forward", changed


def _of_a_model(owner: type) -> bool:
    return issubclass(owner, torch.nn.Module) and not owner.__module__.startswith("torch.")


def _takes(method: Callable, arguments: list[str]) -> bool:
    return list(inspect.signature(method).parameters)[1 : len(arguments) + 1] == arguments


for _info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name):
    importlib.import_module(f"{__name__}.{_info.name}")
