"""What one GPU of a layout holds: weights, cache, activations, communication buffers, against its capacity.

A `Footprint` is read off a report once and then answers for any batch and length. Each pipeline stage has its own; the
fullest decides. `b` counts the sequences of one attention-data-parallel group, as in a sharded op list.

Weights are those of the local op lists, plus the parameters that no op reads. The cache is that of the traced model:
what lies along heads or channels is dealt to the tensor-parallel ranks with them (repeated where there are fewer), a
latent that all heads share is on each of them. Activations are the fullest moment of a pass. Buffers are
`BUFFER_BYTES` per group that a rank communicates in, and twice its largest message: what goes out and what comes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from models.layout import Layout
from models.sharding import shard
from models.stages import deal
from oplib.arithmetic import Amount
from oplib.dtypes import storage_bytes
from oplib.errors import InvalidInputError, OpListFormatError
from oplib.oplist import Layer, OpList
from oplib.spelled import Term, light, value_of
from oplib.wording import gib
from perfdb.systems import System

Json = Mapping[str, Any]  # Any: an object decoded from JSON

#: NCCL keeps 4 MiB (NCCL_BUFFSIZE) for each of 16 channels in both directions. Source: NCCL 2.27 user guide,
#: "Environment Variables", https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html; 16 channels is what
#: it opens over NVLink by default on servers of 8 GPUs.
BUFFER_BYTES = 2 * 16 * 4 * 2**20
#: Of a GPU's memory, the part that engines fill: the rest is CUDA's context, kernels and what allocators waste.
#: Source: gpu_memory_utilization of vLLM and free_gpu_memory_fraction of TensorRT-LLM, both 0.9.
USABLE = 0.9
MOST_SEQUENCES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one GPU of the fullest stage, and the bytes that may be used there (0: no system was given)."""

    weights: int
    kv_cache: int
    activations: int
    buffers: int
    capacity: int
    stage: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.activations + self.buffers

    @property
    def missing(self) -> int:
        """Bytes that are too many; 0 where it fits."""
        return max(0, self.total - self.capacity) if self.capacity else 0

    @property
    def fits(self) -> bool:
        """Whether the capacity suffices."""
        return self.missing == 0

    @property
    def verdict(self) -> str:
        """One sentence: how much is free, or by how much it does not fit."""
        if not self.capacity:
            return f"{gib(self.total)} per GPU"
        if self.fits:
            return f"fits with {gib(self.capacity - self.total)} to spare"
        return f"does not fit by {gib(self.missing)}"

    def to_json(self) -> dict[str, int | bool | str]:
        """The `memory` object of a price."""
        return {
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "activations": self.activations,
            "buffers": self.buffers,
            "total": self.total,
            "capacity": self.capacity,
            "fits": self.fits,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one GPU of a stage holds: bytes of weights, and expressions in b, s, p of the rest."""

    weights: int
    cache: tuple[tuple[int, Amount], ...]  # layers, bytes of one
    activations: Mapping[str, tuple[Amount, ...]]  # fullest moments of each phase
    messages: tuple[Amount, ...]
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The memory of a model under a layout, for any batch and length."""

    stages: tuple[Stage, ...]
    capacity: int

    def at(self, *, b: int, s: int, p: int = 0, most_tokens: int = 0) -> Memory:
        """The fullest GPU once b sequences have p + s tokens in the cache, s of them new in the context pass.

        `most_tokens` is how many tokens one context pass takes at most, whatever the batch (chunked prefill); 0: no
        limit. Raises InvalidInputError for a negative size or an empty batch.
        """
        if b < 1 or s < 1 or p < 0 or most_tokens < 0:
            raise InvalidInputError(
                f"A workload of batch {b}, {s} new and {p} cached tokens, {most_tokens} tokens a pass.",
                "Batch and new tokens are at least 1, the others at least 0.",
            )
        found = [self._stage(i, stage, b, s, p, most_tokens) for i, stage in enumerate(self.stages)]
        return max(found, key=lambda memory: memory.total)

    def largest_batch(self, *, s: int, p: int = 0, most_tokens: int = 0) -> int:
        """The most sequences per group that fit, exactly; 0 where not even one does."""
        if not self.capacity:
            raise InvalidInputError(
                "The largest batch needs a capacity.", "Give a system to the footprint."
            )

        def fits(b: int) -> bool:
            return self.at(b=b, s=s, p=p, most_tokens=most_tokens).fits

        if not fits(1):
            return 0
        low, high = 1, 2
        while high < MOST_SEQUENCES and fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _stage(self, number: int, stage: Stage, b: int, s: int, p: int, most: int) -> Memory:
        new = min(s, most) if most else s
        rows = min(b, max(most // new, 1)) if most else b  # as `models.passes` deals them
        context = {"b": rows, "s": new, "p": p + s - new}
        decode = {"b": b, "s": 1, "p": p + s - 1}
        moments = [
            _bytes(moment, **at)
            for phase, at in (("context", context), ("generation", decode))
            for moment in stage.activations.get(phase, ())
        ]
        messages = [_bytes(m, **at) for at in (context, decode) for m in stage.messages]
        cache = sum(count * _bytes(size, b=b, s=s, p=p + s) for count, size in stage.cache)
        return Memory(
            weights=stage.weights,
            kv_cache=cache,
            activations=max(moments, default=0),
            buffers=stage.groups * BUFFER_BYTES + 2 * max(messages, default=0),
            capacity=self.capacity,
            stage=number,
        )


def footprint(
    report: Json,
    layout: Layout,
    *,
    system: System | None = None,
    kv_dtype: str = "",
    usable: float = USABLE,
) -> Footprint:
    """The footprint of a report of `trace-model` under a layout.

    `kv_dtype` is the dtype of cached keys and values, in place of the checkpoint's (states keep theirs); `usable` the
    part of the system's memory that may be filled. Raises InvalidInputError where the layout does not divide.
    """
    if not 0 < usable <= 1:
        raise InvalidInputError(f"The usable part of the memory is {usable}.", "It is in (0, 1].")
    try:
        layers = [Layer.from_json(layer) for layer in report["layers"]]
        leaves, moments = report["kv_cache"]["leaves"], report["activations"]
        idle = sum(entry["bytes"] for entry in report.get("idle", ()))
    except (KeyError, TypeError) as error:
        raise OpListFormatError(
            f"The report has no {error}: memory cannot be told.",
            "Write it with trace-model MODEL --json; an op list alone does not say it.",
        ) from error
    lists = shard(OpList.from_json(report), layout, layers)
    held: Sequence[Mapping[str, int] | None] = deal(layers, layout.pp) if layout.pp > 1 else [None]
    dtype = kv_dtype or report["kv_cache"].get("stored_as", "")
    activations = {
        phase: tuple(_moment(peak, layout) for peak in found["peaks"])
        for phase, found in moments.items()
    }
    stages = tuple(
        Stage(
            weights=sum(op.get_weights() for op in one.ops("context")) + (idle if i == 0 else 0),
            cache=tuple(_leaves(leaves, held[i], layout, dtype, first=i == 0)),
            activations=activations,
            messages=_messages(one),
            groups=len({(op.op == "p2p", op.params["num_gpus"]) for op in _sent(one)}),
        )
        for i, one in enumerate(lists)
    )
    capacity = int(system.memory_capacity.base * usable) if system else 0
    return Footprint(stages=stages, capacity=capacity)


def _leaves(
    leaves: Sequence[Json],
    held: Mapping[str, int] | None,
    layout: Layout,
    dtype: str,
    *,
    first: bool,
) -> list[tuple[int, Amount]]:
    """Of each tensor of the cache, how many layers of the stage have it and the bytes of one on a rank."""
    found = []
    for leaf in leaves:
        count = leaf["count"]
        if held is not None:
            count = held.get(leaf["layer"], 0) if leaf["layer"] else count * first
        size = _local(Term.read(leaf["bytes"]), leaf["shards"], layout.tp)
        if dtype and leaf["grows"] and leaf["dtype"] in ("bfloat16", "float16", "float32"):
            size *= Fraction(storage_bytes(dtype), storage_bytes(leaf["dtype"]))
        if count:
            found.append((count, size))
    return found


def _moment(peak: Json, layout: Layout) -> Amount:
    """Bytes of a fullest moment on a rank. A rank routes 1/ep of the pairs of all groups, 1/moe_tp of each inside."""
    plain = _local(Term.read(peak["bytes"]), peak["shards"], layout.tp)
    hidden, inner = (Term.read(peak["experts"][name]) for name in ("hidden", "inner"))
    return plain + (hidden + inner * Fraction(1, layout.moe_tp)) * Fraction(layout.dp, layout.ep)


def _local(size: Amount, shards: Json, tp: int) -> Amount:
    """A rank's part of a size; what has fewer parts than there are ranks is repeated, an uneven deal rounded up."""
    for parts, dealt in shards.items():
        share = Fraction(-(-int(parts) // tp), int(parts))
        size -= Term.read(dealt) * Fraction(share.denominator - share.numerator, share.denominator)
    return size


def _sent(one: OpList) -> list[Any]:  # Any: Op, whose class the sum below does not need
    return [op for ops in one.phases.values() for op in ops if op.kind.role == "communication"]


def _messages(one: OpList) -> tuple[Amount, ...]:
    return tuple({str(m): m for m in (light(op.dims)["bytes"] for op in _sent(one))}.values())


def _bytes(expr: Amount, *, b: int, s: int, p: int) -> int:
    value = value_of(expr, b=b, s=s, p=p)
    return int(-(-value // 1))
