"""Kernels that ran, by name and time: what torch's profiler saw of one replay, and which op each belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from collector.bench import Bench, Replay, profiler

Json = dict[str, Any]  # Any: an object that becomes JSON
#: How names of kernels begin that the compiler writes itself: each has its own name, so that names say nothing alike.
GENERATED = ("triton_",)
#: Other names of the same work: of memory in a graph's pool the profiler cannot always tell the kind, and a node of a
#: graph that copies a few bytes is a copy by one driver's choice and a kernel by another's.
_ALIKE = {
    "Memset (Unknown)": "Memset (Device)",
    "memcpy32_post": "Memcpy DtoD (Device -> Device)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel of a call: its name, microseconds, and the idle microseconds of the device before it."""

    name: str
    us: float
    gap_us: float = 0.0

    @property
    def generated(self) -> bool:
        """Whether the compiler wrote it."""
        return self.name.startswith(GENERATED)

    @property
    def work(self) -> str:
        """The name that it is compared by."""
        return _ALIKE.get(self.name, self.name)

    def to_json(self) -> Json:
        """The fields."""
        return {"name": self.name, "us": round(self.us, 3), "gap_us": round(self.gap_us, 3)}

    @classmethod
    def from_json(cls, data: Json) -> Kernel:
        """What `to_json` wrote."""
        return cls(name=data["name"], us=data["us"], gap_us=data.get("gap_us", 0.0))


def kernels_of(bench: Bench, replay: Replay, calls: int) -> tuple[Kernel, ...]:
    """The kernels of one call of a replay of `calls` alike, each the mean over the calls; operators on a CPU."""
    gpu = bench.hardware.type == "cuda"
    replay()
    bench.synchronize()
    with profiler(bench.hardware) as found:
        replay()
        bench.synchronize()
    wanted = torch.autograd.DeviceType.CUDA if gpu else torch.autograd.DeviceType.CPU
    events = [e for e in found.events() or () if e.device_type == wanted and _is_kernel(e, gpu=gpu)]
    events.sort(key=lambda event: event.time_range.start)
    if not events or len(events) % calls:
        return tuple(
            Kernel(name=e.name, us=e.time_range.elapsed_us())
            for e in events[-len(events) // calls :]
        )
    each = len(events) // calls
    return tuple(
        _mean([events[turn * each + place] for turn in range(calls)], events, place, each)
        for place in range(each)
    )


def _is_kernel(event: Any, *, gpu: bool) -> bool:  # Any: an event of the profiler
    """On a CPU an operator counts where no other one called it."""
    if gpu:
        return True
    parent = event.cpu_parent
    return event.name.startswith("aten::") and not (parent and parent.name.startswith("aten::"))


def _mean(turns: list[Any], events: list[Any], place: int, each: int) -> Kernel:  # Any: events
    """The kernel at a place of the call; its gap where one lies before it in the same replay."""
    gaps = []
    for turn, event in enumerate(turns):
        index = turn * each + place
        if index:
            gaps.append(max(event.time_range.start - events[index - 1].time_range.end, 0.0))
    took = [event.time_range.elapsed_us() for event in turns]
    return Kernel(
        name=turns[-1].name, us=sum(took) / len(took), gap_us=sum(gaps) / len(gaps) if gaps else 0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """`match`: both sides run the same kernels of libraries, as often. `missing` run alone only, `added` in the part
    only; `generated` counts the compiler's own kernels, alone and in the part."""

    match: bool
    missing: tuple[str, ...]
    added: tuple[str, ...]
    generated: tuple[int, int]

    def to_json(self) -> Json:
        """The fields."""
        return {
            "missing": list(self.missing),
            "added": list(self.added),
            "generated": list(self.generated),
        }


def compare(alone: Sequence[Kernel], inside: Sequence[Kernel]) -> Compared:
    """Kernels of the ops alone beside those of the part."""
    one, other = (Counter(k.work for k in side if not k.generated) for side in (alone, inside))
    generated = tuple(sum(k.generated for k in side) for side in (alone, inside))
    return Compared(
        match=one == other, missing=tuple((one - other).elements()), added=tuple((other - one).elements()),
        generated=(generated[0], generated[1]),
    )  # fmt: skip


def attribute(
    alone: Sequence[Sequence[Kernel]], inside: Sequence[Kernel]
) -> tuple[list[list[Kernel]], list[Kernel]]:
    """The kernels of the part that belong to each op, and those that belong to none.

    An op claims, in the order of ops, the first unclaimed kernel of each name that it runs alone; then, where as many
    of the compiler's own kernels are left as ops run, those go in order. Where not, an op that runs some gets no kernel
    at all: what a part of it takes says nothing.
    """
    left = list(inside)
    claimed: list[list[Kernel]] = [[] for _ in alone]
    for place, kernels in enumerate(alone):
        for wanted in (k for k in kernels if not k.generated):
            found = next((k for k in left if k.work == wanted.work), None)
            if found is not None:
                left.remove(found)
                claimed[place].append(found)
    fused = [place for place, kernels in enumerate(alone) for k in kernels if k.generated]
    own = [k for k in left if k.generated]
    if len(fused) == len(own):
        for place, kernel in zip(fused, own, strict=True):
            left.remove(kernel)
            claimed[place].append(kernel)
    else:
        for place in dict.fromkeys(fused):
            left += claimed[place]
            claimed[place] = []
    return claimed, left
