"""Hardware: what a variant asks of the device it would run on, as data, so that refusals are tested without a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A device: `type` is torch's word for it, `capability` that of CUDA, `memory` bytes (0: unknown)."""

    type: str
    name: str = ""
    capability: tuple[int, int] | None = None
    l2_bytes: int = 0
    memory: int = 0

    def __str__(self) -> str:
        if self.capability is None:
            return self.name or self.type
        major, minor = self.capability
        return f"{self.name or self.type} (compute capability {major}.{minor})"


def hardware(device: torch.device | str) -> Hardware:
    """What torch says of a device that is here."""
    found = torch.device(device)
    if found.type != "cuda":
        return Hardware(type=found.type, name=found.type)
    facts = torch.cuda.get_device_properties(found)
    return Hardware(
        type="cuda",
        name=facts.name,
        capability=(facts.major, facts.minor),
        l2_bytes=facts.L2_cache_size,
        memory=facts.total_memory,
    )
