"""Binding the slots of a sub-module into transformers while it is built, called and compiled."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from oplib.errors import InvalidInputError
from oplib.kernels import registry
from oplib.kernels.binding import Binding, Recorded, forget
from oplib.kernels.variant import Variant

NAME = "kernel_slots"  # in transformers' registry of attention; without an entry among its masks, none are made
_DEFAULT_EXPERTS = "grouped_mm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the model is built with: names in transformers' registries."""

    attention: str
    experts: str


@contextlib.contextmanager
def bound(
    model: nn.Module, variants: Mapping[str, Variant], *, own_attention: bool = False,
    recorded: Recorded | None = None,
) -> Iterator[Names]:  # fmt: skip
    """Within the context, models built with these names run the variants of these slots; `model` has the classes.

    `own_attention`: attention is of a kind that no slot has, and runs as the model's own code writes it. `recorded`
    gets what slots are called with whose time depends on values, when the model runs and is not being compiled.
    """
    found = {slot: _binding(variant) for slot, variant in variants.items()}
    bindings = {slot: binding for slot, binding in found.items() if binding is not None}
    attentions = {slot: b.attention for slot, b in bindings.items() if b.attention}
    ALL_ATTENTION_FUNCTIONS.register(NAME, _dispatch(attentions))
    names = Names(
        attention="eager" if own_attention else NAME,
        experts=next((b.experts for b in bindings.values() if b.experts), _DEFAULT_EXPERTS),
    )
    if names.experts != "eager" and names.experts not in ALL_EXPERTS_FUNCTIONS:
        raise InvalidInputError(
            f"transformers has no experts named {names.experts!r}.",
            "Choose another variant of moe.",
        )
    functions = {name: f for b in bindings.values() for name, f in b.functions.items()}
    with contextlib.ExitStack() as stack:
        stack.callback(forget)
        if recorded is not None and names.experts in ALL_EXPERTS_FUNCTIONS:
            own = ALL_EXPERTS_FUNCTIONS[names.experts]
            stack.callback(ALL_EXPERTS_FUNCTIONS.__setitem__, names.experts, own)
            for slot, binding in bindings.items():
                if binding.experts and binding.noted:
                    note = functools.partial(_note, recorded, slot, binding.noted)
                    ALL_EXPERTS_FUNCTIONS[names.experts] = _noting(own, note, recorded)
        for module in {sys.modules[type(part).__module__] for part in model.modules()}:
            for name in functions.keys() & vars(module).keys():
                stack.callback(setattr, module, name, vars(module)[name])
                setattr(module, name, functions[name])
        yield names


def _binding(variant: Variant) -> Binding | None:
    bind = registry.slot(variant.slot).bind
    if bind is None:
        return None
    if not variant.bindable:
        raise InvalidInputError(
            f"{variant} runs alone only, not in a model.", "Choose another variant with --variant."
        )
    return bind(variant)


def _note(
    recorded: Recorded, slot: str, noted: Any, args: Any, kwargs: Any
) -> None:  # Any: a call's
    recorded.note(slot, *noted(*args, **kwargs))


def _noting(own: Any, note: Any, recorded: Recorded) -> Any:  # Any: of transformers' interface
    """The experts, whose calls are noted; torch.compile sees nothing of it."""

    def experts(*args: Any, **kwargs: Any) -> torch.Tensor:
        if not torch.compiler.is_compiling() and recorded.open:
            note(args, kwargs)
        result: torch.Tensor = own(*args, **kwargs)
        return result

    return experts


def _dispatch(attentions: Mapping[str, Any]) -> Any:  # Any: functions of transformers' interface
    """One function for the registry: latent attention where the module has a latent and such a slot is bound."""
    latent = next((f for slot, f in attentions.items() if slot.endswith("mla")), None)
    plain = next((f for slot, f in attentions.items() if not slot.endswith("mla")), None)

    def attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        is_latent = latent is not None and (plain is None or hasattr(module, "kv_lora_rank"))
        chosen = latent if is_latent else plain
        if chosen is None:
            raise InvalidInputError(f"No attention slot is bound for {type(module).__name__}.")
        result: tuple[torch.Tensor, None] = chosen(module, *args, **kwargs)
        return result

    return attention
