"""Real execution: a model as transformers builds it, at full depth on the CPU with random weights.

Nothing of the tracer's build, pruning or boundaries takes part. Attention and experts are those that transformers
writes out in Python (`eager`), whose products the FLOP counter sees one by one.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

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
    cache = DynamicCache(config=model.config) if keeps_states(model) else None
    vocabulary = model.get_input_embeddings().num_embeddings
    for length in lengths:
        ids = torch.randint(3, vocabulary, (batch, length))
        counter = FlopCounterMode(display=False)
        with counter, aside(model, counter) as inside:
            cache = small_models.step(model, ids, cache)
        kept = [cache, *states(model)] if keeps_states(model) else cache
        yield Ran(flops=counter.get_total_flops() - inside[0], cache_bytes=held(kept))


@contextmanager
def aside(model: nn.Module, counter: FlopCounterMode) -> Iterator[list[int]]:
    """Within the context, FLOPs inside kernel functions (scans, short convolutions), and inside the blocks of forward
    passes that are scans, are summed apart.
    """
    inside = [0]
    depth = [0]

    @contextmanager
    def apart():
        before = counter.get_total_flops()
        depth[0] += 1
        try:
            yield
        finally:
            depth[0] -= 1
            if not depth[0]:
                inside[0] += counter.get_total_flops() - before

    places = []
    for file in {sys.modules[type(m).__module__] for m in model.modules()}:
        for name in boundaries._FUNCTIONS:
            if callable(original := vars(file).get(name)):
                places.append((file, name, apart()(original)))
    for kind in {type(m) for m in model.modules()}:
        for find, (boundary, counted) in boundaries._BLOCKS.items():
            if counted is not boundary:
                continue  # its products are those that a list counts
            if changed := _with_block(vars(kind).get("forward"), find, apart):
                places.append((kind, "forward", changed))
    with ExitStack() as stack:
        for owner, name, changed in places:
            stack.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, changed)
        yield inside


def _with_block(method: Any, find: Any, manager: Any) -> Any:
    """The method with the block that `find` sees inside `with manager():`, or None."""
    if not isinstance(method, FunctionType) or method.__closure__:
        return None
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    function = tree.body[0]
    if function.decorator_list or (block := find(function)) is None:
        return None
    within = ast.parse("with _manager(): pass").body[0]
    within.body = [block.statement]
    for node in ast.walk(function):
        for _, body in ast.iter_fields(node):
            if isinstance(body, list) and block.statement in body and node is not within:
                body[body.index(block.statement)] = within
    made: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), method.__code__.co_filename, "exec")
    exec(code, {**method.__globals__, "_manager": manager}, made)
    return made[function.name]


def keeps_states(model: nn.Module) -> bool:
    """Whether the model keeps recurrent states in attributes of its modules, and fills a cache that it is handed."""
    return any("recurrent_states" in vars(m) for m in model.modules())


def states(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that its modules hold and no checkpoint does."""
    for module in model.modules():
        yield from (v for v in vars(module).values() if isinstance(v, torch.Tensor))


def held(cache: Any) -> int:
    """Bytes of all tensors with a batch in a cache, each once; a counter of tokens has none."""
    return _held(cache, set())


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
