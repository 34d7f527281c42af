"""The cases of tools/fuzz.py: configs cut to a few layers, and seeded changes to them, hostile or benign.

A change is data, `{"path": [...], "value": ...}` or `{"path": [...], "drop": true}`, so that a case can be stored, and
made smaller by leaving changes out. A benign change is one that a person could make and that leaves a valid model.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = (ROOT.parent / "shared" / "model_configs", ROOT / "shared" / "model_configs")
LAYERS = 5
BENIGN_SHARE = 0.4
Config = dict[str, Any]  # Any: a config.json
Change = dict[str, Any]

_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
_NUMBERS: tuple[Any, ...] = (
    0, -1, -7, 1, 2, 3, 10**6, 2**31, 10**30, 0.5, 2.5, 1e-30, 1e300, float("nan"), float("inf"),
)  # fmt: skip
_JUNK: tuple[Any, ...] = (
    None, True, False, "", "4", "many", "full_attention", [], {}, [None], [1, "a", {}], [[1], [2]],
    {"a": [{"b": None}]}, {"type": "linear"}, {"rope_type": "yarn"}, {"rope_type": 7, "factor": "x"},
)  # fmt: skip
_QUANTIZATION: tuple[Any, ...] = (
    {}, [], "fp8", 8, {"quant_method": None}, {"quant_method": "unheard_of"}, {"quant_method": 3},
    {"quant_method": "fp8", "weight_block_size": [0, 128]},
    {"quant_method": "fp8", "weight_block_size": "128"},
    {"quant_method": "fp8", "weight_block_size": [128]},
    {"quant_method": "fp8", "modules_to_not_convert": 5},
    {"quant_method": "gptq", "bits": 0}, {"quant_method": "gptq", "bits": "four", "group_size": -1},
    {"quant_method": "awq", "bits": 4, "group_size": 0},
    {"quant_method": "compressed-tensors", "config_groups": []},
    {"quant_method": "compressed-tensors", "config_groups": {"group_0": None}},
    {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": "x"}}}},
    {"quant_method": "compressed-tensors", "ignore": {"a": 1}, "config_groups": {}},
    {"quant_method": "mxfp4", "modules_to_not_convert": [None, 3]},
    {"quant_method": "modelopt", "quant_algo": "NOTHING"},
    {"quant_method": "bitsandbytes", "load_in_4bit": "yes"},
)  # fmt: skip


def bases() -> dict[str, Config]:
    """Configs to change, by name: the published ones where they are at hand, and the small ones of the tests."""
    from tests.tracer.small_models import SMALL

    found = {f"small--{name}": copy.deepcopy(config) for name, config in SMALL.items()}
    for folder in PUBLISHED:
        for file in sorted(folder.glob("*/config.json")):
            found[file.parent.name] = cut(json.loads(file.read_text(encoding="utf-8")))
    return found


def text_path(config: Config) -> tuple[str, ...]:
    """Where the fields of the language model are."""
    return next(((name,) for name in _TEXT if isinstance(config.get(name), dict)), ())


def at(config: Any, path: tuple[str, ...] | list[str]) -> Any:
    """What lies at a path."""
    for step in path:
        config = config[step]
    return config


def cut(config: Config) -> Config:
    """The config with at most LAYERS layers, one of each kind that its lists name, and its lists to match."""
    section = at(config, text_path(config))
    depth = section.get("num_hidden_layers")
    if not isinstance(depth, int) or depth <= LAYERS:
        return config
    lists = {
        name: value
        for name, value in section.items()
        if isinstance(value, list | str) and len(value) == depth
    }
    rows = [json.dumps([lists[name][i] for name in sorted(lists)]) for i in range(depth)]
    first = [i for i in range(depth) if rows[i] not in rows[:i]][:LAYERS]
    kept = sorted({*first, *[i for i in range(depth) if i not in first][: LAYERS - len(first)]})
    for name, value in lists.items():
        picked = [value[i] for i in kept]
        section[name] = "".join(picked) if isinstance(value, str) else picked
    section["num_hidden_layers"] = len(kept)
    for name in ("first_k_dense_replace", "full_attention_interval"):
        if isinstance(section.get(name), int):
            section[name] = min(section[name], 2)
    return config


def apply(config: Config, changes: list[Change]) -> Config:
    """A changed copy. A change whose place is gone does nothing."""
    found = copy.deepcopy(config)
    for change in changes:
        *parents, name = change["path"]
        try:
            holder = at(found, parents)
            if change.get("drop"):
                del holder[name]
            else:
                holder[name] = copy.deepcopy(change["value"])
        except (KeyError, IndexError, TypeError):
            continue
    return found


def case(seed: int, number: int, known: Mapping[str, Config]) -> tuple[str, bool, list[Change]]:
    """Of case `number`: the name of its base, whether its changes are benign, and the changes."""
    rng = random.Random(f"{seed}:{number}")
    name = rng.choice(sorted(known))
    config = known[name]
    is_benign = rng.random() < BENIGN_SHARE
    if is_benign:
        choices = list(_benign(rng, config))
        return name, True, rng.sample(choices, min(len(choices), rng.randint(1, 3)))
    return name, False, [_hostile(rng, config) for _ in range(rng.choice((1, 1, 2, 3)))]


def _places(config: Any, path: tuple = ()) -> Iterator[tuple]:
    for name, value in config.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from _places(value, (*path, name))


def _hostile(rng: random.Random, config: Config) -> Change:
    section = text_path(config)
    if rng.random() < 0.1:
        return {"path": ["quantization_config"], "value": rng.choice(_QUANTIZATION)}
    places = [p for p in _places(config) if not section or p[: len(section)] == section]
    if rng.random() < 0.1:
        places = list(_places(config))
    path = rng.choice(places)
    value = at(config, path)
    if rng.random() < 0.15:
        return {"path": list(path), "drop": True}
    if rng.random() < 0.1:
        return {"path": list(path), "value": at(config, rng.choice(places))}
    return {"path": list(path), "value": _spoilt(rng, value)}


def _spoilt(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None or rng.random() < 0.25:
        return rng.choice(_JUNK + _NUMBERS)
    if isinstance(value, int | float):
        near = (
            value + 1,
            value - 1,
            -value,
            value * 2,
            value * 1000,
            value / 2,
            value // 2,
            str(value),
        )
        return rng.choice(_NUMBERS + near + _JUNK)  # fmt: skip
    if isinstance(value, list):
        return _spoilt_list(rng, value)
    if isinstance(value, dict) and value:
        inner = dict(value)
        name = rng.choice(sorted(inner))
        if rng.random() < 0.4:
            del inner[name]
        else:
            inner[name] = _spoilt(rng, inner[name])
        return inner
    if isinstance(value, str) and value:
        return rng.choice((value[:-1], value * 2, value.upper(), value[::-1], *_JUNK))
    return rng.choice(_JUNK)


def _spoilt_list(rng: random.Random, value: list[Any]) -> list[Any]:
    kind = rng.randrange(5)
    if kind == 0:
        return value[:-1]
    if kind == 1:
        return [*value, *(value[-1:] or [None])]
    if kind == 2 or not value:
        return value * 3
    other = list(value)
    if kind == 3:
        rng.shuffle(other)
    else:
        other[rng.randrange(len(other))] = rng.choice(("quadratic_attention", *_JUNK, *_NUMBERS))
    return other


def _benign(rng: random.Random, config: Config) -> Iterator[Change]:
    """Changes to one field each that leave a valid model, whatever others of them are made."""
    section = text_path(config)
    fields = at(config, section)

    def to(name: str, value: Any) -> Change:
        return {"path": [*section, name], "value": value}

    def whole(name: str) -> int:
        value = fields.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    heads, kv_heads = whole("num_attention_heads"), whole("num_key_value_heads")
    latent = "kv_lora_rank" in fields
    if kv_heads and heads and not latent:
        yield to(
            "num_key_value_heads", rng.choice([d for d in range(1, heads + 1) if not heads % d])
        )
    for name in ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"):
        if whole(name):
            yield to(name, 128 * rng.randint(1, 60))
    if whole("vocab_size"):
        yield to("vocab_size", max(whole("vocab_size") + rng.randint(0, 5000), 200))
    for name in ("sliding_window", "attention_chunk_size", "index_topk"):
        if whole(name):
            yield to(name, rng.choice((2, 5, 64, 500, 4096, 100_000)))
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if whole(name):
            yield to(name, whole(name) * rng.randint(2, 4))
    for name in ("num_experts_per_tok", "num_experts_per_token", "moe_top_k"):
        if whole(name) > 1 and not whole("n_group") > 1:
            yield to(name, rng.randint(1, whole(name)))
    if latent:
        for name in ("kv_lora_rank", "v_head_dim"):
            yield to(name, 16 * rng.randint(1, 50))
    for name in ("rope_theta", "rms_norm_eps", "initializer_range", "routed_scaling_factor"):
        if isinstance(fields.get(name), int | float):
            yield to(name, fields[name] * rng.choice((0.5, 2, 3)))
    for name in ("tie_word_embeddings", "use_cache"):
        yield to(name, rng.random() < 0.5)
    if "attention_bias" in fields and not latent:
        yield to("attention_bias", rng.random() < 0.5)
    yield to("max_position_embeddings", rng.choice((4096, 32768, 262_144, 1_048_576)))
    yield to("some_unknown_field", rng.choice((1, "x", None, [1, 2])))
    types = fields.get("layer_types")
    if isinstance(types, list) and len(set(types)) > 1:
        yield to("layer_types", rng.sample(types, len(types)))
