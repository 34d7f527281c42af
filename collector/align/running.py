"""A sub-module on its device, compiled, over copies of its weights and its cache: what the timing loop runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from collector.align import fixed_cache
from collector.align.binding import Names
from collector.align.settings import Settings
from collector.turn import Turn
from oplib.errors import UnsupportedModelError
from oplib.kernels.variant import Call as Bound
from oplib.kernels.variant import Outputs
from tracer.build import quiet_transformers
from tracer.submodule_inputs import Call
from tracer.submodules import SubModule
from tracer.tensors import tensors

#: torch.compile's backend by device type: on a CPU the graph is captured whole, and its operators run as they are.
BACKENDS: Mapping[str, str] = {"cuda": "inductor"}
_RECOMPILED = 1024  # layers that are alike differ in their number, and share a function


@dataclass(slots=True, kw_only=True)
class Running:
    """`pairs` are copies of the module with calls of their own; `whole` says that it compiled without a break,
    `difference` how far its outputs are from those that are not compiled, over their root mean square. `stacks` as
    `compiled` has them."""

    pairs: list[tuple[nn.Module, Call]]
    function: Any  # what torch.compile returns, or what calls the compiled regions
    stacks: Collection[str]
    turn: Turn
    whole: bool
    note: str
    difference: float
    cold_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        module, call = self.pairs[0]
        weights = sum(p.numel() * p.element_size() for p in module.parameters())
        self.cold_bytes = weights + fixed_cache.cache_bytes(call)

    def make(self, sets: int) -> Bound:
        """The call over `sets` copies, as `collector.timing` asks for it."""
        while len(self.pairs) < sets:
            module, call = self.pairs[0]
            module = copy.deepcopy(module)
            _compile_regions(module, self.stacks, self.turn, whole=self.whole)
            self.pairs.append((module, fixed_cache.another(call)))
        runs = tuple(self._runner(module, call) for module, call in self.pairs[:sets])
        for run in runs:
            run()  # each copy once before a capture: guards may ask for another compilation
        return Bound(runs=runs, cold_bytes=self.cold_bytes)

    def _runner(self, module: nn.Module, call: Call) -> Any:  # Any: a function without arguments
        def run() -> Outputs:
            call.reset()
            with torch.no_grad():
                found = self.function(module, call.args, call.kwargs)
            return tuple(t for t in tensors(found) if t.is_floating_point())

        return run


def start(
    part: SubModule,
    phase: str,
    sizes: Mapping[str, int],
    settings: Settings,
    names: Names,
) -> Running:
    """Build, fill and compile a part at a workload; slots are bound by the caller."""
    how: dict[str, Any] = {
        "attn_implementation": names.attention,
        "experts_implementation": names.experts,
        "seed": settings.seed,
    }
    device = settings.device
    with settings.turn, quiet_transformers():
        module = part.build(device, **how)
        call = part.inputs(phase, sizes["b"], sizes["s"], sizes["p"], device, **how)
    return compiled(module, call, settings)


def compiled(
    module: nn.Module, call: Call, settings: Settings, stacks: Collection[str] = ()
) -> Running:
    """The module compiled for a call, its cache in fixed memory; its results are compared with those of eager code.

    `stacks` are paths of lists of layers: each layer is compiled by itself then, and so is each module beside them.
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = _RECOMPILED
    torch._dynamo.config.accumulated_recompile_limit = _RECOMPILED
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    with settings.turn, quiet_transformers():
        returned, restore = fixed_cache.prepare(call, module)
        plain = [t.clone() for t in tensors(returned)]
        call.reset()
    function, whole, note = _compiled(module, call, stacks, settings.turn)
    with settings.turn, torch.no_grad():
        call.reset()
        restore()
        found = list(tensors(function(module, call.args, call.kwargs)))
        call.reset()
        difference = _difference(found, plain)
    return Running(
        pairs=[(module, call)], function=function, stacks=stacks, turn=settings.turn, whole=whole, note=note,
        difference=difference,
    )  # fmt: skip


def _compiled(
    module: nn.Module, call: Call, stacks: Collection[str], turn: Turn
) -> tuple[Any, bool, str]:
    """The compiled function, without a break where that can be; a break is told and not hidden."""

    def function(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return module(*args, **kwargs)

    note = ""
    for whole in (True, False):
        found = function if stacks else torch.compile(function, **_how(module, turn, whole=whole))
        _compile_regions(module, stacks, turn, whole=whole)
        try:
            # what is not compiled runs between what is, and has no turn of its own
            with Turn() if whole else turn, torch.no_grad():
                found(module, call.args, call.kwargs)
            with turn:
                call.reset()
            return found, whole, note
        except torch._dynamo.exc.TorchDynamoException as error:
            note = "graph break: " + " ".join(str(error).split())[:200]
            torch._dynamo.reset()
    raise UnsupportedModelError("torch.compile refuses the module.", note)


def _compile_regions(
    module: nn.Module, stacks: Collection[str], turn: Turn, *, whole: bool
) -> None:
    for region in regions(module, stacks) if stacks else ():
        region.compile(**_how(module, turn, whole=whole))


def regions(module: nn.Module, stacks: Collection[str], path: str = "") -> Iterator[nn.Module]:
    """The layers of the lists at the paths in `stacks`, and the modules beside these lists; torch's own, which it does
    not compile, are a kernel each."""
    for name, child in module.named_children():
        own = path + name
        if own in stacks:
            yield from child.children()
        elif any(stack.startswith(own + ".") for stack in stacks):
            yield from regions(child, stacks, own + ".")
        elif not type(child).__module__.startswith("torch."):
            yield child


def _how(module: nn.Module, turn: Turn, *, whole: bool) -> dict[str, Any]:
    """Arguments of torch.compile. What is compiled takes its turn on the device, the compilation does not."""
    device = next(module.parameters()).device.type
    backend = torch._dynamo.lookup_backend(BACKENDS.get(device, "eager"))

    def compile_graph(graph: Any, examples: Any) -> Any:  # Any: as torch.compile's backends have it
        compiled_graph = backend(graph, examples)

        def run(*args: Any) -> Any:  # Any: tensors
            with turn:
                return compiled_graph(*args)

        return run

    return {"backend": compile_graph, "fullgraph": whole, "dynamic": False}


def _difference(found: list[torch.Tensor], plain: list[torch.Tensor]) -> float:
    """The largest over the outputs of the norm of the difference over the norm."""
    worst = 0.0
    for one, other in zip(found, plain, strict=True):
        if one.is_floating_point() and other.numel():
            away = (one.double() - other.double()).norm()
            size = other.double().norm()
            ratio = float(away / size) if size else float(away)
            worst = ratio if math.isnan(ratio) else max(worst, ratio)
    return worst
