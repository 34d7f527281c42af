"""docs/kernels.md: every slot and variant, what it needs, and what it is checked on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from oplib.kernels.registry import Slot, ranked, slots
from oplib.kernels.variant import Variant

HEAD = """\
# Kernels

What can be run and timed. A slot is an op kind, a variant one implementation of it: the file
`oplib/kernels/<slot>/<variant>.py`. Where none is asked for, the first of a slot's table that can run is taken;
`--variant slot=name` chooses another, and one that cannot run is an error that says why. `collect-ops --kernels` prints
what this machine can run. Every variant is checked against `eager` in float64, on the slot's examples and on random
inputs, before its first time is written. How measuring works: [measuring.md](measuring.md)."""


def render() -> str:
    """The page."""
    lines = [HEAD]
    for slot in slots().values():
        lines += ["", *page(slot)]
    return "\n".join(lines) + "\n"


def page(slot: Slot) -> Iterator[str]:
    """The section of one slot."""
    yield f"## {slot.name}"
    yield ""
    yield slot.doc
    yield ""
    yield "| variant | runs on | dtypes | what it is |"
    yield "|---|---|---|---|"
    for variant in ranked(slot.name):
        needs = variant.needs
        text = " ".join((inspect.getdoc(type(variant)) or "").split())
        mark = f" Unverified: {variant.unverified}." if variant.unverified else ""
        yield f"| `{variant.name}` | {_hardware(variant)} | {', '.join(needs.dtypes)} | {text}{mark} |"


def _hardware(variant: Variant) -> str:
    needs = variant.needs
    words = [" and ".join(needs.device_types)]
    if needs.capability > (0, 0):
        words.append(f"compute capability from {needs.capability[0]}.{needs.capability[1]}")
    if needs.capability_below < (99, 0):
        words.append(f"below {needs.capability_below[0]}.{needs.capability_below[1]}")
    words += [f"package `{name}`" for name in needs.packages]
    if not variant.capturable:
        words.append("no CUDA graph")
    return ", ".join(words)
