"""Settings: what stays the same for all rows of a run of align-model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from collector.turn import Turn


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
