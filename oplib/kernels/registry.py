"""The registry of kernels: every file `oplib/kernels/<slot>/<variant>.py` is a variant of the slot of its folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import oplib.kernels
from oplib.errors import DuplicateNameError, InvalidInputError
from oplib.kernels.binding import Binding
from oplib.kernels.hardware import Hardware
from oplib.kernels.variant import Sizes, Variant
from oplib.params import Params
from oplib.registry import kind

REFERENCE = "eager"
_CHECKED = 3  # examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What several implementations compute alike: an op kind's name, and its variants by name.

    `examples` are small ops of odd sizes, complete parameters and dims, that a variant is checked on. `bind` puts one
    into a model; None where models call no function of their own for it.
    """

    name: str
    doc: str
    variants: dict[str, Variant]
    examples: tuple[tuple[Params, Sizes], ...]
    bind: Callable[[Variant], Binding] | None = None

    @property
    def reference(self) -> Variant:
        """The variant that the others are checked against."""
        return self.variants[REFERENCE]


@cache
def slots() -> dict[str, Slot]:
    """Every slot by name, in the order of the folders."""
    return {
        module.name: _load(f"{oplib.kernels.__name__}.{module.name}")
        for module in sorted(pkgutil.iter_modules(oplib.kernels.__path__), key=lambda m: m.name)
        if module.ispkg
    }


def load_slot(package: ModuleType) -> Slot:
    """The slot that a package is: its `inputs`, its `EXAMPLES`, and a variant per file."""
    name = package.__name__.rpartition(".")[2]
    for contract in ("inputs", "EXAMPLES"):
        if not hasattr(package, contract):
            raise InvalidInputError(f"{package.__file__} defines no {contract}.")
    op_kind = kind(name)
    variants = {file: found(name, file, package.inputs) for file, found in _variants(package)}
    if REFERENCE not in variants:
        raise InvalidInputError(f"{package.__file__} has no variant {REFERENCE}.")
    return Slot(
        name=name,
        doc=(package.__doc__ or "").strip().splitlines()[0],
        variants=variants,
        examples=tuple((op_kind.complete(p, d), d) for p, d in package.EXAMPLES),
        bind=getattr(package, "bind", None),
    )


def extend(package_name: str) -> None:
    """Add the variants of another package with a folder per slot: kernels that live outside this project."""
    package = importlib.import_module(package_name)
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        known = slot(module.name)
        folder = importlib.import_module(f"{package_name}.{module.name}")
        for name, found in _variants(folder):
            if name in known.variants:
                raise DuplicateNameError(
                    f"{module.name} has a variant {name}, and {folder.__name__} another.",
                    "Rename one of them.",
                )
            known.variants[name] = found(known.name, name, known.reference.inputs)


def _variants(package: ModuleType) -> Iterator[tuple[str, type[Variant]]]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        yield (
            module.name,
            _variant_class(importlib.import_module(f"{package.__name__}.{module.name}")),
        )


def slot(name: str) -> Slot:
    """The slot of this name."""
    if name not in slots():
        raise InvalidInputError(f"No kernel for {name!r}.", f"Slots: {', '.join(slots())}.")
    return slots()[name]


def resolve(
    name: str,
    variant: str | None = None,
    *,
    device: Hardware,
    params: Params | None = None,
    dims: Sizes | None = None,
) -> Variant:
    """The variant asked for, or the preferred one of those that can run; an error that says what can and why not."""
    variants = slot(name).variants
    if variant is not None and variant not in variants:
        raise InvalidInputError(
            f"{name} has no variant {variant!r}.", _choice(name, device, params, dims)
        )
    if variant is not None:
        if reason := variants[variant].why_not(device, params, dims):
            raise InvalidInputError(
                f"{name}={variant} cannot run: {reason}.", _choice(name, device, params, dims)
            )
        return variants[variant]
    for candidate in sorted(ranked(name), key=lambda v: -v.rank(params or {}, dims or {})):
        if not candidate.unverified and candidate.why_not(device, params, dims) is None:
            return candidate
    raise InvalidInputError(
        f"No variant of {name} can run here.", _choice(name, device, params, dims)
    )


def ranked(name: str) -> list[Variant]:
    """The variants of a slot, the preferred ones first."""
    return sorted(slot(name).variants.values(), key=lambda v: (-v.preference, v.name))


def examples(variant: Variant, device: Hardware) -> list[tuple[Params, Sizes]]:
    """The first examples of its slot that a variant can run, on which it is checked before it is trusted."""
    able = [one for one in slot(variant.slot).examples if variant.why_not(device, *one) is None]
    return able[:_CHECKED]


def why(
    name: str, device: Hardware, params: Params | None = None, dims: Sizes | None = None
) -> dict[str, str]:
    """What each variant of a slot answers: empty where it can run, else why not."""
    return {v.name: v.why_not(device, params, dims) or "" for v in ranked(name)}


def dump(device: Hardware, width: int = 80) -> Iterator[str]:
    """Lines of at most `width` columns: each slot, its variants, and whether they run on a device."""
    for name in slots():
        yield name
        for variant in ranked(name):
            reason = variant.why_not(device)
            mark = f"no: {reason}" if reason else "yes"
            if variant.unverified:
                mark += f"; unverified: {variant.unverified}"
            yield from textwrap.wrap(
                f"{variant.name:18} {mark}", width, initial_indent="  ", subsequent_indent=" " * 21
            )
            yield from textwrap.wrap(
                variant.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )


def _choice(name: str, device: Hardware, params: Params | None, dims: Sizes | None) -> str:
    answers = why(name, device, params, dims)
    able = [variant for variant, reason in answers.items() if not reason]
    rest = [f"{variant} {reason}" for variant, reason in answers.items() if reason]
    return f"Available: {', '.join(able) or 'none'}." + (
        f" Not: {'; '.join(rest)}." if rest else ""
    )


def _load(path: str) -> Slot:
    return load_slot(importlib.import_module(path))


def _variant_class(file: ModuleType) -> type[Variant]:
    found = [
        value
        for value in vars(file).values()
        if inspect.isclass(value)
        and issubclass(value, Variant)
        and value.__module__ == file.__name__
        and not inspect.isabstract(value)
    ]
    if len(found) != 1:
        raise DuplicateNameError(
            f"{file.__file__} defines {len(found)} variants.", "A file is one variant."
        )
    return found[0]
