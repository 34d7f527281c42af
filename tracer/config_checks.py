"""Refuse a config whose numbers cannot be a model, before a class that would build it sees them.

The bounds are far above everything published and low enough that building on meta stays within seconds:
1024 layers, 2**20 layers x experts, 2**20 for a hidden size, 2**27 for a vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from oplib.errors import InvalidInputError

MAX_LAYERS = 1024
MAX_LAYERS_TIMES_EXPERTS = 2**20

_LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "decoder_layers",
    "encoder_layers",
)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k", "top_k_experts")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "embed_dim", "intermediate_size", "ffn_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")

# name -> (least, most); null is allowed everywhere and means the class's own default
_BOUNDS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(_LAYERS, (1, MAX_LAYERS)),
    **dict.fromkeys(_EXPERTS, (0, 2**16)),
    **dict.fromkeys(_TOP_K, (0, 2**16)),
    **dict.fromkeys(_HIDDEN, (1, 2**20)),
    **dict.fromkeys(_HEADS, (1, 2**16)),
    **dict.fromkeys(_POSITIONS, (1, 2**40)),
    "num_nextn_predict_layers": (0, MAX_LAYERS),
    "head_dim": (1, 2**16),
    "vocab_size": (1, 2**27),
}
_SIZE_NAME = re.compile(r".*_(size|dim|rank|heads|experts)")
_NOT_A_SIZE = re.compile(r".*(window|chunk|group|block).*")
_SIZE_BOUNDS = (0, 2**27)
_FREE_SECTIONS = ("quantization_config", "compression_config")


def max_positions(config: object) -> int | None:
    """Tokens of the longest sequence that a config is made for; None where it states none."""
    stated = (getattr(config, name, None) for name in _POSITIONS)
    return next((n for n in stated if isinstance(n, int) and n > 0), None)


def check_raw_numbers(raw: Mapping[str, Any], source: str) -> None:
    """Raise InvalidInputError for the first absurd size in the file or its nested `*_config` sections."""
    for name, value in _numbers(raw):
        leaf = name.rpartition(".")[2]
        if leaf in _BOUNDS:
            _check_bound(name, value, _BOUNDS[leaf], source)
        elif _SIZE_NAME.fullmatch(leaf) and not _NOT_A_SIZE.fullmatch(leaf):
            _check_bound(name, value, _SIZE_BOUNDS, source, strict=False)
    for section in (raw, *_sections(raw)):
        _check_experts(section, source)


def check_config(config: Any, raw: Mapping[str, Any], source: str) -> None:
    """Raise InvalidInputError when the sizes of a transformers config contradict each other."""
    heads = int_of(config, "num_attention_heads") or 0
    kv_heads = int_of(config, "num_key_value_heads") or 0
    hidden = int_of(config, "hidden_size") or 0
    if heads and kv_heads and heads % kv_heads:
        raise InvalidInputError(
            f"{source}: num_attention_heads={heads} is not a multiple of num_key_value_heads={kv_heads}.",
            hint="Grouped-query attention needs a whole number of query heads per key/value head.",
        )
    own_head_dim = any("head_dim" in k or k.endswith(("_rank", "d_kv")) for k in raw)
    # A class that derives no head_dim either needs no multiple or raises when it is built.
    derived = heads > 0 and int_of(config, "head_dim") == hidden // heads
    if derived and not own_head_dim and hidden % heads:
        raise InvalidInputError(
            f"{source}: hidden_size={hidden} is not a multiple of num_attention_heads={heads}.",
            hint="Give a multiple, or set head_dim.",
        )
    layers = int_of(config, "num_hidden_layers")
    for name in ("layer_types", "mlp_layer_types", "layers_block_type"):
        types = getattr(config, name, None)
        if isinstance(types, list) and layers is not None and len(types) != layers:
            raise InvalidInputError(
                f"{source}: {name} has {len(types)} entries for num_hidden_layers={layers}.",
                hint="Give one entry per layer.",
            )


def _check_bound(
    name: str, value: Any, bounds: tuple[int, int], source: str, *, strict: bool = True
) -> None:
    least, most = bounds
    if isinstance(value, bool) or not isinstance(value, int | float):
        if not strict:
            return
        raise InvalidInputError(
            f"{source}: {name}={_shown(value)} is not a number.",
            hint=f"Give an integer from {least} to {most}.",
        )
    if not least <= value <= most or (strict and value != int(value)):
        raise InvalidInputError(
            f"{source}: {name}={_shown(value)} is out of range.",
            hint=f"Give an integer from {least} to {most}.",
        )


def _check_experts(section: Mapping[str, Any], source: str) -> None:
    experts = next(((n, section[n]) for n in _EXPERTS if _is_count(section.get(n))), None)
    top_k = next(((n, section[n]) for n in _TOP_K if _is_count(section.get(n))), None)
    layers = next((section[n] for n in _LAYERS if _is_count(section.get(n))), 1)
    if experts and top_k and experts[1] and top_k[1] > experts[1]:
        raise InvalidInputError(
            f"{source}: {top_k[0]}={top_k[1]} exceeds {experts[0]}={experts[1]}.",
            hint="A token cannot use more experts than there are.",
        )
    if experts and experts[1] * layers > MAX_LAYERS_TIMES_EXPERTS:
        raise InvalidInputError(
            f"{source}: {experts[0]}={experts[1]} in {layers} layers are too many experts.",
            hint=f"Layers x experts may be at most {MAX_LAYERS_TIMES_EXPERTS}.",
        )


def _numbers(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        if value is None:
            continue
        if isinstance(value, dict):
            if name.endswith("_config") and name not in _FREE_SECTIONS:
                yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, list) and name in _BOUNDS:
            yield from ((f"{prefix}{name}", item) for item in value if item is not None)
        else:
            yield f"{prefix}{name}", value


def _sections(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name, value in raw.items():
        if isinstance(value, dict) and name.endswith("_config") and name not in _FREE_SECTIONS:
            yield value
            yield from _sections(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def int_of(config: Any, name: str) -> int | None:
    """The integer in this field of a transformers config; None when absent, null, or different per layer."""
    try:
        value = getattr(config, name, None)
    except Exception:  # noqa: BLE001 - transformers refuses to read a field that differs per layer
        return None
    return value if _is_count(value) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
