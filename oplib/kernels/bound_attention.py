"""Attention of a slot in place of a model's own, with the arguments of transformers' attention interface.

Shapes: B batch, H query heads, G key and value heads, S new tokens, T keys at hand, D size of a key, V of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from oplib.kernels import registry
from oplib.kernels.binding import Binding, ready, refuse
from oplib.kernels.hardware import hardware
from oplib.kernels.variant import DTYPES, Inputs, Outputs, Sizes, Variant
from oplib.params import Params
from oplib.registry import kind

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Preferred(Variant):
    """Of each call the variant that is preferred for it: the layers of a model may differ."""

    def __init__(self, slot: str) -> None:
        super().__init__(slot, "", registry.slot(slot).reference.inputs)

    def run(self, inputs: Inputs, params: Params, dims: Sizes) -> Outputs:
        here = hardware(inputs["q"].device)
        found = registry.resolve(self.slot, device=here, params=params, dims=dims)
        return found.run(ready(found, inputs, params, dims), params, dims)


def plain(variant: Variant) -> Binding:
    """The slots context_attention and generation_attention."""
    return Binding(attention=_function(variant, latent=False))


def latent(variant: Variant) -> Binding:
    """The slots context_mla and generation_mla, in the expanded form that transformers runs."""
    return Binding(attention=_function(variant, latent=True))


def _function(
    variant: Variant, *, latent: bool
) -> Any:  # Any: as the interface of transformers has it
    slot, name = variant.slot, variant.name

    def attention(
        module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        attention_mask: torch.Tensor | None = None, scaling: float | None = None,  # noqa: ARG001 - the slot makes its own
        sliding_window: int | None = None, softcap: float | None = None, is_causal: bool | None = None,
        s_aux: torch.Tensor | None = None, position_bias: torch.Tensor | None = None,
        indices: torch.Tensor | None = None, **_more: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """(B,H,S,D), (B,G,T,D), (B,G,T,V) -> (B,S,H,V)."""
        if position_bias is not None or indices is not None:
            refuse("a bias or a choice of keys")
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        sizes = [
            int(sliding_window or 0),
            _chunk(module),
            int(causal),
            _rope(module) if latent else 0,
        ]
        query = _scaled(query, scaling)
        cap = float(softcap or 0.0)
        return _OPERATOR(query, key, value, s_aux, slot, name, sizes, cap), None

    return attention


def _operator(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None,
    slot: str, variant: str, sizes: Sequence[int], softcap: float,
) -> torch.Tensor:  # fmt: skip
    params, dims = _case(slot, query, key, value, sinks, sizes, softcap)
    found = registry.slot(slot).variants.get(variant) or Preferred(slot)
    inputs: Inputs = {"q": query, "k": key, "v": value}
    if not slot.endswith("mla"):
        inputs["sinks"] = sinks
    out = found.run(ready(found, inputs, params, dims), params, dims)[0]
    return out.transpose(1, 2).contiguous()


def _operator_sizes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None,  # noqa: ARG001
    slot: str, variant: str, sizes: Sequence[int], softcap: float,  # noqa: ARG001
) -> torch.Tensor:  # fmt: skip
    b, heads, s, _ = query.shape
    return query.new_empty(b, s, heads, value.shape[-1])


def _case(
    slot: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None,
    sizes: Sequence[int], softcap: float,
) -> tuple[Params, Sizes]:  # fmt: skip
    """The op's parameters and dims. What a window has dropped from the cache is no part of p: nothing depends on it."""
    window, chunk, causal, rope = sizes
    (b, heads, s, d), t = query.shape, key.shape[2]
    # Fewer keys than a chunk are all that there ever were: they begin at position 0.
    if chunk and t > s and t >= chunk:
        refuse("chunks and cached keys, whose positions it does not know")
    shared: dict[str, Any] = {
        "num_heads": heads, "v_head_dim": value.shape[3], "window": window, "causal": bool(causal),
        "dtype": _NAMES[query.dtype], "kv_dtype": _NAMES[key.dtype], "whole_cache": 0 < window <= t - s,
    }  # fmt: skip
    if slot.endswith("mla"):
        own = {
            "kv_lora_rank": 1,
            "qk_nope_head_dim": d - rope,
            "qk_rope_head_dim": rope,
            "absorbed": False,
        }
    else:
        own = {
            "num_kv_heads": key.shape[1], "head_dim": d, "chunk": chunk, "softcap": softcap,
            "sinks": sinks is not None,
        }  # fmt: skip
    return kind(slot).complete({**shared, **own}), {"b": b, "s": s, "p": t - s}


def _scaled(query: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Slots scale scores by D^-½: where a model has another factor, its quotient goes into the queries."""
    quotient = 1.0 if scaling is None else scaling * query.shape[-1] ** 0.5
    return query if abs(quotient - 1.0) < 1e-6 else query * quotient


def _rope(module: torch.nn.Module) -> int:
    return int(getattr(module, "qk_rope_head_dim", 0))


def _chunk(module: torch.nn.Module) -> int:
    """Tokens of a chunk where the layer attends within chunks only."""
    config, index = getattr(module, "config", None), getattr(module, "layer_idx", None)
    types = getattr(config, "layer_types", None)
    if config is None or types is None or index is None or types[index] != "chunked_attention":
        return 0
    return int(config.attention_chunk_size)


_OPERATOR: Any = torch.library.custom_op("kernel_slots::attention", _operator, mutates_args=())
_OPERATOR.register_fake(_operator_sizes)
