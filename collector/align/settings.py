"""Settings: what stays the same for all rows of a run of align-model, and the turn that a process takes on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class Turn:
    """Held while the device works. Nobody waits for this one: no other process is there."""

    sharers: int = 1  # processes that take turns, each of which has its part of the device's memory

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_error: object) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`variants` are the ones asked for, by slot; `seconds` bound the samples of a row; without `time` everything is
    compiled and nothing is timed. A whole model is compiled layer by layer, or in `one_graph`. Processes that share a
    device compile side by side; each is timed alone, in its `turn`.
    """

    model: str
    device: str
    variants: Mapping[str, str]
    seconds: float = 0.5
    time: bool = True
    seed: int = 0
    debug: bool = False
    one_graph: bool = False
    turn: Turn = field(default_factory=Turn)
