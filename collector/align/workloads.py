"""Workloads as they are written on the command line, and the parts of a model that they are run on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from oplib.errors import InvalidInputError

_TEXT = re.compile(r"(\d{1,9})x(\d{1,9})(?:x(\d{1,9}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`b` sequences with `s` new tokens each over `p` cached ones; in generation s is 1."""

    b: int
    s: int
    p: int = 0

    def __str__(self) -> str:
        return f"{self.b}x{self.s}" + (f"x{self.p}" if self.p else "")

    @property
    def sizes(self) -> dict[str, int]:
        """b, s and p by name."""
        return {"b": self.b, "s": self.s, "p": self.p}

    def fits(self, phase: str) -> bool:
        """Whether the workload is one of the phase: one new token over cached ones is generation."""
        return (self.s == 1 and self.p > 0) == (phase == "generation")


def parse_workload(text: str) -> Workload:
    """The workload that is written BxS or BxSxP."""
    found = _TEXT.fullmatch(text.strip())
    sizes = [int(part or 0) for part in found.groups()] if found else [0, 0, 0]
    if min(sizes[:2]) < 1:
        raise InvalidInputError(
            f"{text!r} is no workload.",
            "Write BxS or BxSxP, such as 1x2048, or 16x1x4096 for one token over 4096 cached ones.",
        )
    return Workload(b=sizes[0], s=sizes[1], p=sizes[2])


def chosen_phases(phase: str, workloads: Sequence[Workload]) -> list[tuple[str, Workload]]:
    """Each workload with the phase that it is run in."""
    phases = ("context", "generation") if phase == "both" else (phase,)
    pairs = [(one, workload) for one in phases for workload in workloads if workload.fits(one)]
    if not pairs:
        raise InvalidInputError(
            f"None of the workloads {', '.join(map(str, workloads))} is one of {' and '.join(phases)}.",
            "Generation has one new token over cached ones, such as 16x1x4096; context all others.",
        )
    return pairs
