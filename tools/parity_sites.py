"""Sites: one kind and shape of one phase with the ops that either list has for it; the words of causes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity_lists import Line

REFERENCE, GRANULARITY = "reference", "granularity"
OURS, UNEXPLAINED = "ours", "unexplained"
CORES = {"attention", "mla", "sparse attention", "compressed attention"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why two counts differ, and on whose side the reason lies."""

    side: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One kind and shape of one phase: how often each list has it."""

    phase: str
    kind: str
    shape: tuple[tuple[str, int | str], ...]
    rows: str
    our_lines: tuple[Line, ...] = ()
    reference_lines: tuple[Line, ...] = ()

    @property
    def ours(self) -> int:
        return sum(line.count for line in self.our_lines)

    @property
    def reference(self) -> int:
        return sum(line.count for line in self.reference_lines)

    @property
    def equal(self) -> bool:
        return self.ours == self.reference

    def dim(self, name: str) -> int | str:
        return dict(self.shape)[name]

    @property
    def parameters(self) -> int:
        """What the reference has more, in parameters."""
        excess = -sum(line.parameters * line.count for line in self.our_lines)
        return excess + sum(line.parameters * line.count for line in self.reference_lines)


@dataclass(slots=True, kw_only=True)
class View:
    """All that a rule may look at: the sites of one phase, and the layers of our report by their id."""

    phase: str
    sites: list[Site]
    others: list[Site]  # those of the other phase
    layers: Mapping[str, list[int]] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[Site]:
        return [site for site in self.sites if site.kind in kinds]

    def our_lines(self, *kinds: str) -> list[Line]:
        return [line for site in self.of(*kinds) for line in site.our_lines]

    def attention_paths(self) -> set[str]:
        """Modules of ours that hold the core of an attention."""
        cores = {line.where for line in self.our_lines(*CORES)}
        names = {path.rpartition(".")[2] for path in cores}
        lost = {line.where for line in self.our_lines("primitive")}
        return cores | {path for path in lost if path.rpartition(".")[2] in names}


def compare(ours: list[Line], reference: list[Line]) -> list[Site]:
    """The union of both lists by phase, kind, shape and rows, in the order of ours, then of the reference."""
    found: dict[tuple[Any, ...], tuple[list[Line], list[Line]]] = {}
    for side, lines in enumerate((ours, reference)):
        for line in lines:
            found.setdefault(line.key, ([], []))[side].append(line)
    return [
        Site(
            phase=phase,
            kind=kind,
            shape=shape,
            rows=rows,
            our_lines=tuple(mine),
            reference_lines=tuple(theirs),
        )
        for (phase, kind, shape, rows), (mine, theirs) in found.items()
    ]


def within(path: str, modules: set[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def reach(site: Site) -> str:
    """How far an attention sees, in words."""
    if site.dim("chunk"):
        return f"chunks of {site.dim('chunk')}"
    return f"window {site.dim('window')}" if site.dim("window") else "full"


def text_of(kind: str, shape: tuple[tuple[str, int | str], ...]) -> str:
    return f"{kind} (" + ", ".join(f"{name} {value}" for name, value in shape) + ")"


def ranges(numbers: list[int]) -> str:
    """Sorted numbers, in words: `0 to 2`, `3, 7, ..., 47`."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1, step)):
        first, last = numbers[0], numbers[-1]
        return f"{first} to {last}" if step == 1 else f"{first}, {first + step}, ..., {last}"
    return ", ".join(map(str, numbers))
