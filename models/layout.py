"""Layout: how a model is dealt to GPUs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of tensor, pipeline, expert and attention data parallelism."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of one replica of the model."""
        return self.tp * self.pp * self.dp

    def to_json(self) -> dict[str, int]:
        """The `layout` object of a report."""
        return {"tp": self.tp, "pp": self.pp, "ep": self.ep, "dp": self.dp}
