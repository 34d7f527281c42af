"""Stated efficiencies: what an op takes where nothing was measured, read from `empirical.toml`.

latency = max(FLOPs / peak / compute, bytes / bandwidth / memory) + launch_ms, with shares of the peak and of the
bandwidth that measured kernels of the kind reach; `uncertainty` is the spread of what was measured around it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from oplib.arithmetic import Amount, maximum
from oplib.kind import OpKind

FILE = "empirical.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of peak and bandwidth, ms of a launch, and the relative uncertainty (one sigma) of the three together."""

    compute: float
    memory: float
    launch_ms: float
    uncertainty: float
    source: str

    def latency_ms(self, compute_ms: Amount, memory_ms: Amount) -> Amount:
        """ms of an op whose sides at peak and at full bandwidth take so long."""
        return maximum(compute_ms / self.compute, memory_ms / self.memory) + self.launch_ms


@cache
def efficiencies() -> Mapping[str, Efficiency]:
    """The stated efficiency per op kind, and `other` for the rest."""
    text = Path(__file__).with_name(FILE).read_text(encoding="utf-8")
    return MappingProxyType(
        {name: Efficiency(**entry) for name, entry in tomllib.loads(text).items()}
    )


def efficiency_of(kind: OpKind) -> Efficiency:
    """That of a kind; of `other` where none is stated."""
    stated = efficiencies()
    return stated.get(kind.name, stated["other"])
