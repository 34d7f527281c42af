"""Which quantisation mode each module's weight has, read from `quantization_config` and hf_quant_config.json.

Module names in those files are the checkpoint's; a traced module is compared under every spelling that the same
weight can have there (prefix of a multimodal model, one entry per expert).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from oplib.dtypes import STORAGE_BITS
from oplib.errors import InvalidInputError
from tracer.module_names import (
    NameMatcher,
    compressed_matcher,
    glob_matcher,
    is_experts,
    merge_matchers,
    regex_matcher,
    transformers_matcher,
)

Kind = Literal["linear", "experts"]
BOTH: frozenset[Kind] = frozenset({"linear", "experts"})
PER_ROW = 2**31 - 1  # a group longer than any row: one scale per output row

_HEADS = ("lm_head", "embed_out")
_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleMode:
    """The mode of one weight: a name of `oplib.dtypes.QUANT_MODES`, and its block or group length if not usual."""

    name: str
    group_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantRule:
    """One mode and the modules it applies to: those named, or every module of `kinds` when `names` is None."""

    mode: ModuleMode
    names: NameMatcher | None = None
    kinds: frozenset[Kind] = BOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantScheme:
    """How a checkpoint stores its weights and its cache; `method` is empty when nothing is quantised."""

    method: str = ""
    rules: tuple[QuantRule, ...] = ()
    excluded: NameMatcher = field(default_factory=NameMatcher)
    quantizes_head: bool = False
    kv_dtype: str | None = None
    notes: tuple[str, ...] = ()

    def keeping(self, names: Iterable[str]) -> QuantScheme:
        """The same scheme without the modules that a model class keeps in full precision."""
        names = tuple(names)
        if not names or not self.rules:
            return self
        return replace(self, excluded=merge_matchers(self.excluded, transformers_matcher(names)))

    def mode_for(self, module_path: str, module_class: str) -> ModuleMode | None:
        """The mode of the weight of one traced module, or None when it stays in its stored dtype."""
        kind = _kind(module_path, module_class)
        if kind is None or self.excluded.matches(module_path):
            return None
        is_head = module_path.rpartition(".")[2] in _HEADS
        for rule in self.rules:
            if kind not in rule.kinds:
                continue
            if rule.names is None:
                if not is_head or self.quantizes_head:
                    return rule.mode
            elif rule.names.matches(module_path):
                return rule.mode
        return None


def read_quantization(
    raw_config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None = None
) -> QuantScheme:
    """The scheme of a model, from its raw config.json and its hf_quant_config.json."""
    config = _find_section(raw_config)
    modelopt = _section(hf_quant_config or {}, "quantization", "hf_quant_config.json")
    method = str(config.get("quant_method") or "").lower()
    if modelopt:
        return _modelopt({**config, **modelopt})
    if not config:
        return QuantScheme()
    if not method and ("config_groups" in config or "quant_algo" in config):
        method = "modelopt" if "quant_algo" in config else "compressed-tensors"
    reader = _READERS.get(method)
    if reader is not None:
        return reader({**config, "_expert_dtype": _expert_dtype(raw_config)})
    return QuantScheme(
        method=method or "unknown",
        notes=(f"unknown quantisation method {method!r}: weights priced as stored dtype",),
    )


def _fp8(config: Mapping[str, Any]) -> QuantScheme:
    """transformers' finegrained FP8: every Linear and every fused experts module but the listed ones."""
    notes: list[str] = []
    block = config.get("weight_block_size")
    mode = ModuleMode(name="fp8")
    if block:
        mode = ModuleMode(name="fp8_block", group_size=_block(block, notes))
    rules = [QuantRule(mode=mode)]
    if config.get("expert_dtype", config["_expert_dtype"]) == "fp4":
        rules.insert(0, QuantRule(mode=ModuleMode(name="w4a8_mxfp4"), kinds=frozenset({"experts"})))
    return _scheme(config, rules, notes)


def _mxfp4(config: Mapping[str, Any]) -> QuantScheme:
    """Only the experts are stored in MXFP4; transformers converts no Linear with this method."""
    rule = QuantRule(mode=ModuleMode(name="mxfp4"), kinds=frozenset({"experts"}))
    return _scheme(config, [rule], [])


def _weight_only(config: Mapping[str, Any]) -> QuantScheme:
    """AWQ, GPTQ and AutoRound: integer weights in groups of a row."""
    notes: list[str] = []
    bits = config.get("bits", config.get("w_bit", 4))
    group = config.get("group_size", config.get("q_group_size", 128))
    mode = _integer_weight(bits, group, notes)
    skipped = [k[2:] for k in _mapping(config.get("dynamic")) if k.startswith("-:")]
    matcher = merge_matchers(_transformers_names(config), regex_matcher(skipped, notes))
    return QuantScheme(
        method=str(config["quant_method"]),
        rules=(QuantRule(mode=mode),),
        excluded=matcher,
        quantizes_head=config.get("lm_head") is True,
        notes=tuple(notes),
    )


def _bitsandbytes(config: Mapping[str, Any]) -> QuantScheme:
    """Linear modules only: fused experts are plain parameters, which this method leaves alone."""
    names = _entries(config, "llm_int8_skip_modules")
    notes = ["bitsandbytes converts nn.Linear only; fused experts keep their stored dtype"]
    mode = ModuleMode(name="int8")
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        mode = ModuleMode(name="int4_wo", group_size=64)
        notes.append("4-bit bitsandbytes blocks of 64 are priced as int4 groups of 64")
    return QuantScheme(
        method="bitsandbytes",
        rules=(QuantRule(mode=mode, kinds=frozenset({"linear"})),),
        excluded=transformers_matcher(names),
        notes=tuple(notes),
    )


def _plain_method(mode_name: str) -> Any:
    def read(config: Mapping[str, Any]) -> QuantScheme:
        return _scheme(config, [QuantRule(mode=ModuleMode(name=mode_name))], [])

    return read


def _compressed_tensors(config: Mapping[str, Any]) -> QuantScheme:
    """`config_groups` with targets and number formats; names and regexes win over class targets."""
    notes: list[str] = []
    by_name: list[QuantRule] = []
    by_class: list[QuantRule] = []
    for group in _mapping(config.get("config_groups")).values():
        weights = _mapping(_mapping(group).get("weights"))
        if not weights:
            continue
        form = str(group.get("format") or config.get("format") or "")
        mode = _compressed_mode(form, weights, group.get("input_activations"), notes)
        targets = _entries(group, "targets")
        named = [t for t in targets if t.startswith("re:") or "." in t or t in _HEADS]
        if named:
            by_name.append(QuantRule(mode=mode, names=compressed_matcher(named, notes)))
        if any(t.endswith("Linear") for t in targets if t not in named):
            by_class.append(QuantRule(mode=mode))
        elif any(t.endswith("Experts") for t in targets if t not in named):
            by_class.append(QuantRule(mode=mode, kinds=frozenset({"experts"})))
    return QuantScheme(
        method="compressed-tensors",
        rules=(*by_name, *by_class),
        excluded=compressed_matcher(_entries(config, "ignore"), notes),
        quantizes_head=True,
        kv_dtype=_kv_scheme(config.get("kv_cache_scheme"), notes),
        notes=tuple(notes),
    )


def _compressed_mode(
    form: str, weights: Mapping[str, Any], activations: Any, notes: list[str]
) -> ModuleMode:
    bits, group = weights.get("num_bits", 8), weights.get("group_size")
    strategy = weights.get("strategy")
    act_bits = _mapping(activations).get("num_bits", 16)
    if weights.get("type", "int") == "int":
        if bits == 8 and act_bits == 8:
            return ModuleMode(name="int8")
        if act_bits < 16:
            notes.append(f"int{bits} weights with {act_bits}-bit activations priced as weight-only")
        return _integer_weight(bits, group if strategy == "group" else -1, notes)
    if bits == 8:
        if strategy == "block":
            return ModuleMode(
                name="fp8_block", group_size=_block(weights.get("block_structure"), notes)
            )
        return ModuleMode(name="fp8" if act_bits <= 8 else "fp8_wo")
    if form.startswith("mxfp4") or group == 32:
        if act_bits == 4:
            notes.append("mxfp4 weights with 4-bit activations priced as w4a8_mxfp4")
        return ModuleMode(name="mxfp4" if act_bits >= 16 else "w4a8_mxfp4")
    return _nvfp4(act_bits, notes)


def _modelopt(config: Mapping[str, Any]) -> QuantScheme:
    """Model Optimizer: one algorithm for all, or one per layer under MIXED_PRECISION; excludes are globs."""
    notes: list[str] = []
    algorithm = str(config.get("quant_algo") or "")
    excluded = glob_matcher(_entries(config, "exclude_modules") or _entries(config, "ignore"))
    rules: list[QuantRule] = []
    layers = _mapping(config.get("quantized_layers"))
    if layers:
        grouped: dict[ModuleMode, list[str]] = {}
        for name, entry in layers.items():
            entry = _mapping(entry)
            mode = _modelopt_mode(str(entry.get("quant_algo") or ""), entry, notes)
            if mode is not None:
                grouped.setdefault(mode, []).append(name)
        rules = [QuantRule(mode=m, names=glob_matcher(n)) for m, n in grouped.items()]
    else:
        mode = _modelopt_mode(algorithm, config, notes)
        rules = [] if mode is None else [QuantRule(mode=mode)]
    kv_algorithm = config.get("kv_cache_quant_algo")
    kv_dtype = (
        _kv_dtype(str(kv_algorithm), notes)
        if kv_algorithm
        else _kv_scheme(config.get("kv_cache_scheme"), notes)
    )
    return QuantScheme(
        method="modelopt",
        rules=tuple(rules),
        excluded=excluded,
        kv_dtype=kv_dtype,
        notes=tuple(dict.fromkeys(notes)),
    )


_MODELOPT_MODES = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PB_REAL": "fp8_block",
    "FP8_BLOCK_SCALES": "fp8_block",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A16_MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "w4a8_mxfp4",
    "W4A16_AWQ": "int4_wo",
    "W4A16": "int4_wo",
    "W4A16_GPTQ": "int4_wo",
    "W8A16": "int8_wo",
    "W8A16_GPTQ": "int8_wo",
    "INT8_SQ": "int8",
}
# Formats without a mode of their own: (mode, group length when the file has none)
_MODELOPT_NEAREST = {
    "W4A8_AWQ": ("w4a8_mxfp4", 128),
    "W4A8_NVFP4_FP8": ("w4a8_mxfp4", 16),
    "W4A16_NVFP4": ("mxfp4", 16),
    "MXFP8": ("fp8", None),
}
_GROUPED = ("int4_wo", "w4a8_mxfp4", "mxfp4", "nvfp4", "fp8_block")


def _modelopt_mode(algorithm: str, entry: Mapping[str, Any], notes: list[str]) -> ModuleMode | None:
    algorithm = algorithm.upper()
    if algorithm in ("", "NONE", "NO_QUANT"):
        return None
    group = entry.get("group_size") or entry.get("awq_block_size")
    group = group if isinstance(group, int) and group > 0 else None
    if algorithm in _MODELOPT_NEAREST:
        name, usual = _MODELOPT_NEAREST[algorithm]
        notes.append(f"{algorithm} is priced as {name}, the nearest mode")
        return ModuleMode(name=name, group_size=group or usual)
    name = _MODELOPT_MODES.get(algorithm, "int8" if algorithm.startswith("W8A8_SQ") else "")
    if not name:
        notes.append(f"unknown quantisation algorithm {algorithm}: weights priced as stored dtype")
        return None
    return ModuleMode(name=name, group_size=group if name in _GROUPED else None)


def _integer_weight(bits: Any, group: Any, notes: list[str]) -> ModuleMode:
    if bits == 8:
        return ModuleMode(name="int8_wo")
    if bits != 4:
        notes.append(f"{bits}-bit weights are priced as 4-bit, the nearest mode")
    is_grouped = isinstance(group, int) and group > 0
    return ModuleMode(name="int4_wo", group_size=group if is_grouped else PER_ROW)


def _nvfp4(act_bits: int, notes: list[str]) -> ModuleMode:
    if act_bits <= 4:
        return ModuleMode(name="nvfp4")
    nearest = "mxfp4" if act_bits >= 16 else "w4a8_mxfp4"
    notes.append(f"nvfp4 weights with {act_bits}-bit activations priced as {nearest}, groups of 16")
    return ModuleMode(name=nearest, group_size=16)


def _block(block: Any, notes: list[str]) -> int:
    sizes = [n for n in block if isinstance(n, int) and n > 0] if isinstance(block, list) else []
    if len(sizes) != 2 or sizes[0] != sizes[1]:
        notes.append(f"weight blocks {block!r} are priced as 128 x 128")
        return 128
    return sizes[0]


def _kv_scheme(scheme: Any, notes: list[str]) -> str | None:
    entry = _mapping(scheme)
    if not entry:
        return None
    kind = "FP" if entry.get("type", "float") == "float" else "INT"
    return _kv_dtype(f"{kind}{entry.get('num_bits', 8)}", notes)


def _kv_dtype(algorithm: str, notes: list[str]) -> str | None:
    name = algorithm.lower()
    if name in ("none", "auto"):
        return None
    if name in STORAGE_BITS:
        return name
    notes.append(f"{algorithm} cache is priced as fp8, the nearest storage dtype")
    return "fp8"


_READERS: Mapping[str, Any] = {
    "fp8": _fp8,
    "fbgemm_fp8": _plain_method("fp8"),
    "eetq": _plain_method("int8_wo"),
    "mxfp4": _mxfp4,
    "awq": _weight_only,
    "gptq": _weight_only,
    "auto-round": _weight_only,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
}


def _scheme(config: Mapping[str, Any], rules: list[QuantRule], notes: list[str]) -> QuantScheme:
    return QuantScheme(
        method=str(config["quant_method"]),
        rules=tuple(rules),
        excluded=_transformers_names(config),
        kv_dtype=_kv_scheme(config.get("kv_cache_scheme"), notes),
        notes=tuple(notes),
    )


def _transformers_names(config: Mapping[str, Any]) -> NameMatcher:
    return transformers_matcher(
        [*_entries(config, "modules_to_not_convert"), *_entries(config, "ignored_layers")]
    )


def _kind(path: str, module_class: str) -> Kind | None:
    if is_experts(path) or module_class.endswith("Experts"):
        return "experts"
    return "linear" if module_class.endswith(("Linear", "Conv1D")) else None


def _find_section(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("quantization_config", "compression_config"):
        section = _section(raw, name, "config.json")
        if section:
            return section
    for name in _SECTIONS:
        if isinstance(raw.get(name), dict):
            section = _find_section(raw[name])
            if section:
                return section
    return {}


def _expert_dtype(raw: Mapping[str, Any]) -> Any:
    nested: Mapping[str, Any] = next(
        (raw[n] for n in _SECTIONS if isinstance(raw.get(n), dict)), {}
    )
    return raw.get("expert_dtype", nested.get("expert_dtype"))


def _section(raw: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInputError(
            f"{name} in {source} is a {type(value).__name__}, not an object.",
            "Give the object that the quantisation tool wrote, or remove it.",
        )
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(config: Mapping[str, Any], name: str) -> list[str]:
    value = config.get(name)
    return [e for e in value if isinstance(e, str)] if isinstance(value, list) else []
