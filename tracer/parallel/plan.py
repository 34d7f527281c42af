"""What a model's own plan says: how its modules are split, by patterns over their paths."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

#: Words of transformers' tensor-parallel plans, by what becomes of the weight.
_COLUMN = frozenset(["colwise", "packed_colwise", "local_colwise", "colwise_rep"])
_GATHERED = frozenset(["colwise_gather_output"])
_ROW = frozenset(["rowwise", "packed_rowwise", "local_rowwise", "rowwise_split_input", "rowwise_rep"])  # fmt: skip
_WHOLE = frozenset(["replicate", "replicated_with_grad_allreduce", "mla_kv_a_proj"])


#: And of its expert-parallel plans, where ranks get whole experts.
_WHOLE_EXPERTS = frozenset(["grouped_gemm", "ep_dispatch_experts"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Styles by module path, `*` standing for a layer's index: of tensor parallelism and, in `experts`, of expert
    parallelism. `stages` are the modules that pipeline stages are cut between, in their order."""

    styles: Mapping[str, str] = field(default_factory=dict)
    experts: Mapping[str, str] = field(default_factory=dict)
    stages: tuple[str, ...] = ()

    def pattern(self, module: str) -> str:
        """The module's path with `*` for the index of its layer."""
        return _pattern(module)

    def style(self, module: str) -> str:
        """The style of a module; empty where the plan does not name it."""
        return self.styles.get(_pattern(module), "")

    def is_column(self, module: str) -> bool:
        """Whether the plan deals the module's output features, collected at once or not."""
        return self.style(module) in _COLUMN | _GATHERED

    def gathers(self, module: str) -> bool:
        """Whether the plan collects the module's output features at once."""
        return self.style(module) in _GATHERED

    def is_row(self, module: str) -> bool:
        """Whether the plan deals the module's input features."""
        return self.style(module) in _ROW

    def deals_experts(self, module: str) -> bool:
        """Whether expert-parallel ranks get whole experts of a module: true where there is no such plan."""
        own = _pattern(module)
        return not self.experts or any(
            style in _WHOLE_EXPERTS and f"{path}.".startswith(f"{own}.")
            for path, style in self.experts.items()
        )

    def stage(self, module: str, stack: str) -> str:
        """`first` or `last` where the plan puts a module before or behind the layers of `stack`; else empty."""
        level = [path for path in self.stages if _parent(path) == _parent(stack)]
        owner = next((path for path in level if f"{module}.".startswith(f"{path}.")), stack)
        if stack not in level or owner == stack:
            return ""
        return "first" if level.index(owner) < level.index(stack) else "last"

    def keeps_whole(self, module: str) -> bool:
        """Whether the plan says that every rank holds all of the module, or deals its input features."""
        return self.style(module) in _WHOLE | _ROW


@functools.cache
def _pattern(module: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", module)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def plan_of(model: nn.Module) -> Plan:
    """The plans that transformers has collected for a model from its classes and its config."""
    return Plan(
        styles=dict(getattr(model, "_tp_plan", None) or {}),
        experts=dict(getattr(model, "_ep_plan", None) or {}),
        stages=tuple(getattr(model, "_pp_plan", None) or ()),
    )
