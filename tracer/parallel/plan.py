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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Styles by module path, `*` standing for a layer's index."""

    styles: Mapping[str, str] = field(default_factory=dict)

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

    def keeps_whole(self, module: str) -> bool:
        """Whether the plan says that every rank holds all of the module, or deals its input features."""
        return self.style(module) in _WHOLE | _ROW


@functools.cache
def _pattern(module: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", module)


def plan_of(model: nn.Module) -> Plan:
    """The tensor-parallel plan that transformers has collected for a model from its classes and its config."""
    return Plan(styles=dict(getattr(model, "_tp_plan", None) or {}))
