"""Turn a model path into the transformers config of the language model to trace.

The class is chosen from the raw JSON and from transformers' own tables. Code that a repository ships never runs,
and nothing prompts, unless `trust_remote_code` is given.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from oplib.errors import InvalidInputError, UnsupportedModelError
from tracer.build import causal_class_of, one_line, quiet_transformers
from tracer.config_checks import check_config, check_raw_numbers, int_of
from tracer.config_file import ConfigFile, read_config_file

_CAUSAL_NAMES: Mapping[str, str] = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
_MASKED_NAMES: Mapping[str, str] = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
_GENERATIVE_NAMES: tuple[Mapping[str, str], ...] = (
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
_MAIN_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
# Keys that choose code or kernels; the builder decides those. The raw dict keeps them.
_NOT_FOR_THE_CLASS = (
    "auto_map",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model path resolved: the config of its language model, and how we got there."""

    path: str
    source: str
    config: PreTrainedConfig
    outer_config: PreTrainedConfig
    outer_model_type: str
    model_type: str
    architecture: str
    language_model_only: bool
    remote_code: bool
    quant_config: dict[str, Any]
    hf_quant_config: dict[str, Any]
    raw: dict[str, Any]
    notes: tuple[str, ...]


def resolve(
    model_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> ResolvedModel:
    """The config of the language model at a Hub id, folder or JSON file; raises InvalidInputError."""
    file = read_config_file(model_path, revision=revision)
    raw, notes = file.config, list(file.notes)
    _refuse_diffusion(raw, file.source)
    check_raw_numbers(raw, file.source)
    remote_code = trust_remote_code and bool(raw.get("auto_map"))
    with quiet_transformers():
        if remote_code:
            outer = _remote_config(model_path, file, revision)
            notes.append("runs code shipped with the model (--trust-remote-code)")
        else:
            outer = _native_config(file, notes)
        config = _text_config(outer, file, notes)
    if not remote_code:
        _refuse_other_kinds(outer, config, file)
    section = _text_section(raw)
    check_config(config, section, file.source)
    if not remote_code:
        notes.extend(_unread_fields(config, section))
    if (
        type(config) is type(outer)
        and config.model_type not in _CAUSAL_NAMES
        and config.sub_configs
    ):
        left = ", ".join(config.sub_configs)
        notes.append(f"language model only: what is built from {left} is left out")
    return ResolvedModel(
        path=model_path,
        source=file.source,
        config=config,
        outer_config=outer,
        outer_model_type=outer.model_type or _model_type(raw),
        model_type=config.model_type,
        architecture=_architecture(raw) or _causal_name(outer, config),
        language_model_only=type(config) is not type(outer),
        remote_code=remote_code,
        quant_config=_merged_quantization(file),
        hf_quant_config=file.quant,
        raw=raw,
        notes=tuple(notes),
    )


def _refuse_diffusion(raw: Mapping[str, Any], source: str) -> None:
    if "_class_name" in raw or "_diffusers_version" in raw:
        raise UnsupportedModelError(
            f"{source} describes a diffusion component ({raw.get('_class_name', 'diffusers')}), "
            "not a decoder language model.",
            hint="Give the config of a causal language model.",
        )


def _model_type(raw: Mapping[str, Any]) -> str:
    value = raw.get("model_type")
    return value if isinstance(value, str) else ""


def _architecture(raw: Mapping[str, Any]) -> str:
    names = raw.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return ""


def _native_config(file: ConfigFile, notes: list[str]) -> PreTrainedConfig:
    """The config object of transformers' own class; the model's shipped code is not considered."""
    raw = _without_code_keys(file.config)
    model_type = _native_model_type(file, notes)
    config_class = CONFIG_MAPPING[model_type]
    if file.config.get("auto_map"):
        notes.append(f"the model ships its own code; used transformers' {config_class.__name__}")
    if model_type != raw["model_type"]:
        raw["model_type"] = model_type
    config = _from_dict(config_class, raw, file.source)
    return _with_flat_fields(config, raw, file.source, notes)


def _native_model_type(file: ConfigFile, notes: list[str]) -> str:
    """`model_type` when transformers knows it, else the one whose causal class `architectures` names."""
    raw, source = file.config, file.source
    model_type, architecture = raw.get("model_type"), _architecture(raw)
    by_architecture = next((t for t, name in _CAUSAL_NAMES.items() if name == architecture), None)
    if model_type in (None, ""):
        likely = by_architecture or "llama"
        raise InvalidInputError(
            f"{source} has no model_type.", hint=f'Add one, for example "model_type": "{likely}".'
        )
    for section in (raw, *(part for part in raw.values() if isinstance(part, Mapping))):
        given = section.get("model_type")
        if not isinstance(given, str | None):
            raise InvalidInputError(
                f"{source}: model_type={given!r} is not a string.",
                hint='For example "model_type": "llama".',
            )
    if model_type in CONFIG_MAPPING:
        return model_type
    if by_architecture is not None:
        notes.append(
            f"model_type {model_type!r} is unknown to transformers {transformers.__version__}; "
            f"used {by_architecture!r}, whose class {architecture} the config names"
        )
        return by_architecture
    named = f"{architecture} (model_type {model_type!r})" if architecture else repr(model_type)
    if raw.get("auto_map"):
        raise UnsupportedModelError(
            f"{named} is unknown to transformers {transformers.__version__}; the model ships its own code.",
            hint="To run that code, pass --trust-remote-code.",
        )
    nearest = difflib.get_close_matches(model_type, list(CONFIG_MAPPING.keys()), n=3)
    raise UnsupportedModelError(
        f"transformers {transformers.__version__} does not know {named}.",
        hint=f"Nearest names: {', '.join(nearest)}."
        if nearest
        else "A newer transformers may know it.",
    )


def _without_code_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: copy.deepcopy(v) for k, v in raw.items() if k not in _NOT_FOR_THE_CLASS}
    for name, value in kept.items():
        if isinstance(value, dict) and name.endswith("_config"):
            kept[name] = _without_code_keys(value)
    return kept


def _from_dict(
    config_class: type[PreTrainedConfig], raw: dict[str, Any], source: str
) -> PreTrainedConfig:
    try:
        config = config_class.from_dict(copy.deepcopy(raw))
    except Exception as error:  # a config class may fail in any way; its words are the answer
        raise InvalidInputError(
            f"{source} is not a valid {config_class.__name__}: {one_line(error)}.",
            hint="Compare the named field with the model's published config.",
        ) from error
    return config


def _with_flat_fields(
    config: PreTrainedConfig, raw: dict[str, Any], source: str, notes: list[str]
) -> PreTrainedConfig:
    """Read top-level sizes into the text section where the class of a nested config leaves them unread."""
    name = next((n for n in _TEXT_SECTIONS if n in getattr(config, "sub_configs", {})), None)
    if name is None or name in raw:
        return config
    text = getattr(config, name)
    sizes = [n for n in _MAIN_SIZES if n in raw]
    if text is None or all(int_of(text, n) in (raw[n], None) for n in sizes):
        return config
    flat = {k: v for k, v in raw.items() if k not in ("model_type", "architectures")}
    notes.append(f"the file has no {name}; its top-level fields were read as {name}")
    nested = {"model_type": raw["model_type"], "architectures": raw.get("architectures")}
    tied = {k: raw[k] for k in ("tie_word_embeddings",) if k in raw}
    return _from_dict(type(config), {**nested, **tied, name: flat}, source)


def _remote_config(model_path: str, file: ConfigFile, revision: str | None) -> PreTrainedConfig:
    name = model_path
    if file.source.endswith(".json"):
        name = file.source.rpartition("/")[0] or "."
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=True)
    except Exception as error:  # foreign code may fail in any way; its words are the answer
        raise UnsupportedModelError(
            f"the code shipped with {model_path} failed: {type(error).__name__}: {one_line(error)}.",
            hint="It may need another transformers version or packages of its own.",
        ) from error


def _text_config(outer: PreTrainedConfig, file: ConfigFile, notes: list[str]) -> PreTrainedConfig:
    """The decoder's own config: the outer one, or the text section of a multimodal config."""
    try:
        config = outer.get_text_config(decoder=True)
    except (ValueError, AttributeError) as error:
        raise UnsupportedModelError(
            f"{file.source}: {type(outer).__name__} has no single text decoder: {one_line(error)}.",
            hint="Give the config of one causal language model.",
        ) from error
    if type(config) is type(outer):
        # transformers moves decoder_* fields to the plain names and resets them; the classes still read them
        for name in vars(outer):
            if name.startswith("decoder_"):
                setattr(config, name, getattr(outer, name))
        return config
    section = _text_section(file.config)
    # The outer value is the one that ties the real model's head; some text classes lack the field.
    spelled = (file.config.get("tie_word_embeddings"), section.get("tie_word_embeddings"))
    tied = next((t for t in spelled if isinstance(t, bool)), None)
    if tied is None and not hasattr(config, "tie_word_embeddings"):
        tied = getattr(outer, "tie_word_embeddings", False)
    if tied is not None:
        config.tie_word_embeddings = tied
    notes.append(
        f"language model only: traced {config.model_type} out of {outer.model_type}; "
        "other modalities are left out"
    )
    return config


def _text_section(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in _TEXT_SECTIONS:
        section = raw.get(name)
        if isinstance(section, dict):
            return _text_section(section)
    return raw


def _refuse_other_kinds(
    outer: PreTrainedConfig, config: PreTrainedConfig, file: ConfigFile
) -> None:
    """Only causal decoders pass: no encoders, encoder-decoders or vision models."""
    architecture = _architecture(file.config)
    shown = architecture or type(outer).__name__
    causal_names = {_causal_name(outer, config)} - {""}
    asks_for_decoder = architecture in causal_names
    if (outer.is_encoder_decoder or config.is_encoder_decoder) and not asks_for_decoder:
        raise UnsupportedModelError(
            f"{file.source}: {shown} is an encoder-decoder model; only decoders are traced.",
            hint=f'To trace its decoder alone, set "architectures": ["{next(iter(causal_names))}"].'
            if causal_names
            else "Give the config of a causal language model.",
        )
    is_encoder = outer.model_type in _MASKED_NAMES and not outer.is_encoder_decoder
    if is_encoder and not getattr(outer, "is_decoder", False):
        raise UnsupportedModelError(
            f"{file.source}: {shown} is an encoder (bidirectional); only decoders are traced.",
            hint='If it was trained as a decoder, set "is_decoder": true.'
            if outer.model_type in _CAUSAL_NAMES
            else "Give the config of a causal language model.",
        )
    if causal_class_of(outer, config) is not None:
        return
    nested = type(config) is not type(outer)
    if nested and any(outer.model_type in names for names in _GENERATIVE_NAMES):
        return
    vision = " (it has no vocabulary)" if getattr(config, "vocab_size", None) is None else ""
    raise UnsupportedModelError(
        f"{file.source}: {shown} is not a causal language model{vision}.",
        hint=f"Transformers {transformers.__version__} has no *ForCausalLM for {outer.model_type!r}.",
    )


def _causal_name(outer: PreTrainedConfig, config: PreTrainedConfig) -> str:
    return _CAUSAL_NAMES.get(config.model_type) or _CAUSAL_NAMES.get(outer.model_type, "")


def _unread_fields(config: PreTrainedConfig, section: Mapping[str, Any]) -> list[str]:
    """Notes on sizes that the file leaves to the class, and on sizes that the class never looks at."""
    aliases = {**config.attribute_map}
    spelled = set(section) | {k for k, v in aliases.items() if v in section}
    spelled |= {v for k, v in aliases.items() if k in section}
    notes = []
    missing = [n for n in _MAIN_SIZES if n not in spelled and int_of(config, n) is not None]
    if missing:
        notes.append(
            f"not in the file, defaults of {type(config).__name__} used: {', '.join(missing)}"
        )
    text = "".join(
        inspect.getsource(sys.modules[cls.__module__])
        for cls in type(config).__mro__
        if issubclass(cls, PreTrainedConfig)
    )
    sizes = [
        name
        for name, value in section.items()
        if isinstance(value, int)
        and value > 1
        and name.endswith(("_size", "_dim", "_rank", "_heads", "_experts"))
        and name not in text
        and name not in aliases
    ]
    if sizes:
        notes.append(f"fields that {type(config).__name__} does not read: {', '.join(sizes)}")
    return notes


def _merged_quantization(file: ConfigFile) -> dict[str, Any]:
    """All quantisation settings in one dict: the nested section, the outer one, then hf_quant_config.json."""
    merged: dict[str, Any] = {}
    for section in (_text_section(file.config), file.config):
        for name in ("compression_config", "quantization_config"):
            value = section.get(name)
            if isinstance(value, dict):
                merged.update(copy.deepcopy(value))
    quantization = file.quant.get("quantization")
    if isinstance(quantization, dict):
        merged.update(copy.deepcopy(quantization))
        merged.setdefault("quant_method", "modelopt")
    return merged
