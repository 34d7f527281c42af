"""Real execution: a model as transformers builds it, at full depth on the CPU with random weights.

Nothing of the tracer's build, pruning or boundaries takes part. Attention and experts are those that transformers
writes out in Python (`eager`), whose products the FLOP counter sees one by one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tracer import small_models
from tracer import boundaries
from tracer.build import quiet_transformers

Config = dict[str, Any]  # Any: a config.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a pass did: products that the counter saw, outside kernel functions, and bytes of the cache it left."""

    flops: int
    cache_bytes: int


def build(config: Config) -> nn.Module:
    """The model with random weights in bfloat16."""
    torch.manual_seed(0)
    with quiet_transformers():
        made = AutoConfig.for_model(**config)
        for options in ({"experts_implementation": "eager"}, {}):
            try:
                return AutoModelForCausalLM.from_config(
                    made, dtype=torch.bfloat16, attn_implementation="eager", **options
                ).eval()
            except (TypeError, ValueError) as error:
                refused = error
    raise refused


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of the model's parameters, each once."""
    return sum(p.numel() * p.itemsize for p in model.parameters())


def passes(model: nn.Module, batch: int, *lengths: int) -> Iterator[Ran]:
    """Passes over random new tokens of these lengths, one after the other over one cache."""
    cache = None
    vocabulary = model.get_input_embeddings().num_embeddings
    for length in lengths:
        ids = torch.randint(3, vocabulary, (batch, length))
        counter = FlopCounterMode(display=False)
        with counter, aside(model, counter) as inside:
            cache = small_models.step(model, ids, cache)
        yield Ran(flops=counter.get_total_flops() - inside[0], cache_bytes=held(cache))


@contextmanager
def aside(model: nn.Module, counter: FlopCounterMode) -> Iterator[list[int]]:
    """Within the context, FLOPs inside kernel functions (scans, short convolutions) are summed apart."""
    inside = [0]
    depth = [0]

    def wrapped(original):
        @functools.wraps(original)
        def call(*args, **kwargs):
            before = counter.get_total_flops()
            depth[0] += 1
            try:
                return original(*args, **kwargs)
            finally:
                depth[0] -= 1
                if not depth[0]:
                    inside[0] += counter.get_total_flops() - before

        return call

    saved = []
    for file in {sys.modules[type(m).__module__] for m in model.modules()}:
        for name in boundaries._FUNCTIONS:
            if callable(original := vars(file).get(name)):
                saved.append((file, name, original))
                setattr(file, name, wrapped(original))
    try:
        yield inside
    finally:
        for file, name, original in saved:
            setattr(file, name, original)


def held(cache: Any) -> int:
    """Bytes of all tensors with a batch in a cache, each once; a counter of tokens has none."""
    return _held(getattr(cache, "layers", cache), set())


def _held(value: Any, seen: set[int]) -> int:
    if isinstance(value, torch.Tensor):
        new = id(value) not in seen and value.dim() > 1
        seen.add(id(value))
        return value.numel() * value.itemsize if new else 0
    if isinstance(value, dict):
        return sum(_held(v, seen) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(_held(v, seen) for v in value)
    if type(value).__module__.startswith("transformers.") and hasattr(value, "__dict__"):
        return sum(_held(v, seen) for v in vars(value).values())
    return 0
