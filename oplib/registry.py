"""The registry of op kinds: one loop imports every file of `oplib/ops` in sorted order."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from functools import cache
from types import ModuleType

import oplib.ops
from oplib.errors import DuplicateNameError, UnknownOpKindError
from oplib.kind import OpKind


def collect(modules: Iterable[ModuleType]) -> dict[str, OpKind]:
    """The op kind that each module defines, by name; a second definition stops with both files."""
    kinds: dict[str, OpKind] = {}
    files: dict[str, str | None] = {}
    for module in modules:
        for value in vars(module).values():
            if not inspect.isclass(value) or not issubclass(value, OpKind):
                continue
            if value.__module__ != module.__name__ or inspect.isabstract(value):
                continue
            if value.name in kinds:
                raise DuplicateNameError(
                    f"The op kind {value.name!r} is defined in {files[value.name]} and "
                    f"in {module.__file__}.",
                    "Rename one of them.",
                )
            kinds[value.name] = value()
            files[value.name] = module.__file__
    return kinds


@cache
def op_kinds() -> dict[str, OpKind]:
    """Every op kind by name, in the order of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(oplib.ops.__path__))
    return collect(importlib.import_module(f"oplib.ops.{name}") for name in names)


def kind(name: str) -> OpKind:
    """The op kind of this name."""
    kinds = op_kinds()
    if name not in kinds:
        raise UnknownOpKindError(f"Unknown op kind {name!r}.", f"Known: {', '.join(kinds)}.")
    return kinds[name]
