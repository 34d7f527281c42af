"""What the model's parameters weigh: stored dtype and quantisation mode of each, and bytes with scales."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from oplib.dtypes import weight_bytes
from tracer.prune import Pruning
from tracer.quantization import QuantScheme


@dataclass(slots=True, kw_only=True)
class Weights:
    """Bytes and modes of the parameters of a pruned model under a quantisation scheme."""

    model: nn.Module
    pruning: Pruning
    scheme: QuantScheme
    _modes: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    def mode(self, name: str) -> tuple[str, int | None]:
        """The quantisation mode of a parameter (its stored dtype where it is not quantised) and its group size."""
        if name not in self._modes:
            self._modes[name] = self._mode(name)
        return self._modes[name]

    def _mode(self, name: str) -> tuple[str, int | None]:
        parameter = self.model.get_parameter(name)
        stored = str(parameter.dtype).removeprefix("torch.")
        path, _, leaf = name.rpartition(".")
        if parameter.dim() < 2 or leaf.endswith("bias"):
            return stored, None
        module = self.model.get_submodule(path)
        found = self.scheme.mode_for(path, _kind(module))
        return (found.name, found.group_size) if found else (stored, None)

    def bytes(self, name: str) -> int:
        """Bytes of one occurrence of a parameter, scales included; a stack of matrices is one matrix per entry."""
        parameter = self.model.get_parameter(name)
        mode, group = self.mode(name)
        if mode == str(parameter.dtype).removeprefix("torch."):
            return parameter.numel() * parameter.dtype.itemsize
        *stack, n, k = parameter.shape
        if getattr(self.model.get_submodule(name.rpartition(".")[0]), "is_transposed", False):
            n, k = k, n
        count = 1
        for size in stack:
            count *= size
        return count * weight_bytes(mode, n, k, group)

    def total(self) -> int:
        """Bytes of the full model's parameters, tied ones once."""
        return sum(
            self.bytes(name) * self.pruning.copies.get(name, 1)
            for name, _ in self.model.named_parameters()
        )


def _kind(module: nn.Module) -> str:
    """The class name that a quantisation scheme knows: subclasses of Linear count as Linear only under their
    own name.
    """
    return type(module).__name__


def kept_in_full_precision(model: nn.Module) -> set[str]:
    """Names of modules that the model's classes keep out of every quantisation."""
    found: set[str] = set()
    for module in model.modules():
        for attribute in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
            found.update(getattr(module, attribute, None) or ())
    return found


def quantised_parts(scheme: QuantScheme, path: str, layer: nn.Module) -> tuple[str, ...]:
    """The modes of a layer's modules as text: layers that differ in them are different structures."""
    parts = []
    for name, module in layer.named_modules():
        if any(p.dim() >= 2 for p in module.parameters(recurse=False)):
            mode = scheme.mode_for(f"{path}.{name}" if name else path, _kind(module))
            parts.append(f"{name}={mode.name if mode else ''}")
    return tuple(parts)
