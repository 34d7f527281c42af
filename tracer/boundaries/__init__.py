"""Calls the tracer keeps as one node: attention, experts and the functions transformers marks as kernels.

Each file defines one custom operator (`torch.ops.trace_model.<name>`) with a fake implementation only, and says
which call of transformers it stands for. `bind(model)` puts the function boundaries in place of the functions
of the same name in the modules that define the model's classes; attention and experts are selected by name
through transformers' own registries (`IMPLEMENTATION`).
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator

import torch

IMPLEMENTATION = "trace_model"

_LIBRARY = torch.library.Library("trace_model", "DEF")
_FUNCTIONS: dict[str, Callable] = {}


def define(schema: str, fake: Callable) -> Callable:
    """The operator `trace_model::<name>` with the given schema, shapes from `fake`, and no computation."""
    name = schema.split("(", 1)[0]
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


@contextlib.contextmanager
def bind(model: torch.nn.Module) -> Iterator[None]:
    """Within the context, kernel functions that the model's modeling files call are boundaries."""
    files = {sys.modules[type(m).__module__] for m in model.modules()}
    saved = []
    for module in files:
        for name, boundary in _FUNCTIONS.items():
            original = vars(module).get(name)
            if callable(original):
                saved.append((module, name, original))
                setattr(module, name, boundary)
    try:
        yield
    finally:
        for module, name, original in saved:
            setattr(module, name, original)


for _info in sorted(pkgutil.iter_modules(__path__), key=lambda i: i.name):
    importlib.import_module(f"{__name__}.{_info.name}")
