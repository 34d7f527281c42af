"""Reading quantisation settings: which module gets which mode, as the formats themselves define it."""

import json
from pathlib import Path

import pytest

from oplib.dtypes import QUANT_MODES
from oplib.errors import InvalidInputError
from tracer.quantization import PER_ROW, read_quantization

PUBLISHED = Path(__file__).parents[3] / "shared" / "model_configs"
Q = ("model.layers.3.self_attn.q_proj", "Linear")
UP = ("model.layers.3.mlp.up_proj", "Linear")
EXPERTS = ("model.layers.3.mlp.experts", "Qwen3MoeExperts")
ROUTER = ("model.layers.3.mlp.gate", "Qwen3MoeTopKRouter")
LINEAR_ROUTER = ("model.layers.3.mlp.gate", "Linear")
HEAD = ("lm_head", "Linear")
NORM = ("model.layers.3.input_layernorm", "Qwen3RMSNorm")
EMBED = ("model.embed_tokens", "Embedding")


def names(scheme, *modules):
    modes = [scheme.mode_for(*module) for module in modules]
    return [mode and mode.name for mode in modes]


def config(**settings):
    return {"model_type": "llama", "quantization_config": settings}


def group(weights, activations=None, targets=("Linear",), **more):
    entry = {"targets": list(targets), "weights": weights, "input_activations": activations}
    return entry | more


def compressed(*groups, **more):
    groups = {f"group_{i}": g for i, g in enumerate(groups)}
    return config(quant_method="compressed-tensors", config_groups=groups, **more)


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor"}
FP4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}


def test_nothing_quantised():
    """Without settings every module keeps its dtype."""
    for raw in ({}, {"model_type": "llama"}, {"quantization_config": None}):
        scheme = read_quantization(raw, None)
        assert scheme.method == ""
        assert names(scheme, Q, EXPERTS, HEAD) == [None, None, None]
        assert scheme.kv_dtype is None


def test_fp8_per_tensor_and_blocks():
    """fp8 converts Linear modules and fused experts, but no router class, norm, embedding or head."""
    scheme = read_quantization(config(quant_method="fp8", activation_scheme="static"))
    modules = (Q, EXPERTS, ROUTER, HEAD, NORM, EMBED)
    assert names(scheme, *modules) == ["fp8", "fp8", None, None, None, None]
    scheme = read_quantization(config(quant_method="fp8", weight_block_size=[128, 128]))
    assert scheme.mode_for(*Q).name == "fp8_block"
    assert scheme.mode_for(*Q).group_size == 128
    assert scheme.notes == ()
    odd = read_quantization(config(quant_method="fp8", weight_block_size=[1, 128]))
    assert "priced as 128 x 128" in odd.notes[0]


def test_fp4_experts_next_to_fp8_linears():
    """expert_dtype, beside or inside the settings, gives the experts their own mode."""
    raw = config(quant_method="fp8", weight_block_size=[128, 128])
    for scheme in (
        read_quantization({**raw, "expert_dtype": "fp4"}),
        read_quantization(config(**raw["quantization_config"], expert_dtype="fp4")),
    ):
        assert names(scheme, Q, EXPERTS) == ["fp8_block", "w4a8_mxfp4"]


@pytest.mark.parametrize(
    ("entry", "path", "excluded"),
    [
        ("gate", "model.layers.3.mlp.gate", True),  # a suffix
        ("gate", "model.layers.3.mlp.gate_proj", False),
        ("model.layers.3", "model.layers.3.mlp.up_proj", True),  # a parent
        ("model.layers.1", "model.layers.11.mlp.up_proj", False),  # not a module boundary
        ("model.layers.*.self_attn", "model.layers.3.self_attn.q_proj", True),
        ("model.layers.*.mlp.gate", "model.layers.3.mlp.gate_proj", False),
        ("model.language_model.layers.3.mlp", "model.layers.3.mlp.up_proj", True),
        ("language_model.model.layers.3.mlp", "model.layers.3.mlp.up_proj", True),
        ("language_model.lm_head", "lm_head", True),
        ("model.layers.3.block_sparse_moe.gate", "model.layers.3.mlp.gate", True),
        ("model.layers.(3", "model.layers.3.mlp.up_proj", False),  # no regular expression
    ],
)
def test_modules_to_not_convert(entry, path, excluded):
    """transformers' rule: prefix or regex up to a boundary, or a suffix; outer prefixes do not matter."""
    scheme = read_quantization(config(quant_method="fp8", modules_to_not_convert=[entry]))
    assert scheme.excluded.matches(path) == excluded


def test_fused_experts_follow_their_single_experts():
    """Experts are one module when traced and many in a checkpoint: all parts listed means excluded."""
    base = "model.layers.3.mlp.experts"
    parts = [f"{base}.{e}.{p}_proj" for e in range(4) for p in ("gate", "up", "down")]
    scheme = read_quantization(config(quant_method="fp8", modules_to_not_convert=parts))
    assert scheme.mode_for(*EXPERTS) is None
    scheme = read_quantization(config(quant_method="fp8", modules_to_not_convert=parts[:1]))
    assert scheme.mode_for(*EXPERTS).name == "fp8"
    scheme = read_quantization(compressed(group(FP8), ignore=[r"re:.*experts\.\d+\.w[123]$"]))
    assert names(scheme, EXPERTS, Q) == [None, "fp8_wo"]


def test_mxfp4_converts_experts_only():
    """gpt-oss stores its experts in MXFP4; the attention's Linear modules stay."""
    scheme = read_quantization(config(quant_method="mxfp4", modules_to_not_convert=["lm_head"]))
    assert names(scheme, EXPERTS, Q, UP, HEAD) == ["mxfp4", None, None, None]


@pytest.mark.parametrize(
    ("settings", "mode", "group_size"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4_wo", 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4_wo", 64),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4_wo", PER_ROW),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8_wo", None),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 32}, "int4_wo", 32),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4_wo", 64),
        ({"quant_method": "fbgemm_fp8"}, "fp8", None),
    ],
)
def test_other_methods(settings, mode, group_size):
    """Each method's Linear mode; the head stays unquantised."""
    scheme = read_quantization(config(**settings))
    assert (scheme.mode_for(*Q).name, scheme.mode_for(*Q).group_size) == (mode, group_size)
    assert scheme.mode_for(*HEAD) is None


def test_gptq_options():
    """GPTQ may quantise the head, and leaves out modules by negative patterns."""
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True}
    scheme = read_quantization(config(**settings, dynamic={r"-:.*mlp\.gate$": {}}))
    assert names(scheme, HEAD, LINEAR_ROUTER, UP) == ["int4_wo", None, "int4_wo"]
    three = read_quantization(config(quant_method="gptq", bits=3, group_size=128))
    assert "3-bit weights are priced as 4-bit" in three.notes[0]


def test_bitsandbytes_leaves_fused_experts():
    """Fused experts are parameters, not Linear modules."""
    scheme = read_quantization(
        config(quant_method="bitsandbytes", load_in_8bit=True, llm_int8_skip_modules=["q_proj"])
    )
    assert names(scheme, EXPERTS, Q, UP) == [None, None, "int8"]


@pytest.mark.parametrize(
    ("entry", "mode", "group_size"),
    [
        (group(INT4), "int4_wo", 64),
        (group({**INT4, "strategy": "channel", "group_size": None}), "int4_wo", PER_ROW),
        (group(INT8), "int8_wo", None),
        (group(INT8, {"num_bits": 8, "type": "int"}), "int8", None),
        (group(FP8, {"num_bits": 8, "type": "float"}), "fp8", None),
        (group(FP8), "fp8_wo", None),
        (group({**FP8, "strategy": "block", "block_structure": [64, 64]}), "fp8_block", 64),
        (group(FP4, format="mxfp4-pack-quantized"), "mxfp4", None),
        (group(FP4, {"num_bits": 8, "type": "float"}), "w4a8_mxfp4", None),
        (
            group({**FP4, "group_size": 16}, {"num_bits": 4}, format="nvfp4-pack-quantized"),
            "nvfp4",
            None,
        ),
        (group({**FP4, "group_size": 16}, format="nvfp4-pack-quantized"), "mxfp4", 16),
    ],
)
def test_compressed_tensors_formats(entry, mode, group_size):
    """Bits, type, strategy and activations of a group decide the mode."""
    found = read_quantization(compressed(entry, ignore=["lm_head"])).mode_for(*Q)
    assert (found.name, found.group_size) == (mode, group_size)


def test_compressed_tensors_targets_and_ignore():
    """Named targets win over classes; `ignore` takes names and regexes; Linear includes the head."""
    raw = compressed(
        group(INT4),
        group(INT8, targets=["re:.*self_attn.*"]),
        ignore=["re:.*mlp\\.(gate|shared).*", "lm_head"],
        kv_cache_scheme={"num_bits": 8, "type": "float"},
    )
    scheme = read_quantization(raw)
    assert names(scheme, Q, UP, HEAD, LINEAR_ROUTER, NORM) == ["int8_wo", "int4_wo"] + 3 * [None]
    assert scheme.kv_dtype == "fp8"
    assert names(read_quantization(compressed(group(INT4))), HEAD) == ["int4_wo"]


@pytest.mark.parametrize(
    ("algorithm", "mode", "group_size"),
    [
        ("FP8", "fp8", None),
        ("FP8_PB_WO", "fp8_block", None),
        ("NVFP4", "nvfp4", 16),
        ("W4A16_AWQ", "int4_wo", 128),
        ("W4A8_AWQ", "w4a8_mxfp4", 128),
        ("W8A8_SQ_PER_CHANNEL", "int8", None),
        ("NO_QUANT", None, None),
    ],
)
def test_modelopt_algorithms(algorithm, mode, group_size):
    """One algorithm for all Linear modules and experts but the excluded ones."""
    quantization = {"quant_algo": algorithm, "exclude_modules": ["lm_head", "model.layers.0.*"]}
    if group_size:
        quantization["group_size"] = group_size
    scheme = read_quantization({}, {"quantization": quantization})
    found = scheme.mode_for(*Q)
    assert (found and found.name, found and found.group_size) == (mode, group_size)
    assert names(scheme, HEAD, ("model.layers.0.mlp.up_proj", "Linear")) == [None, None]


def test_modelopt_mixed_precision_and_cache():
    """MIXED_PRECISION names each layer; what it does not name stays, the head included only if named."""
    layers = {
        "model.layers.3.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.3.mlp.experts.0.gate_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.3.mlp.experts.0.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.3.mlp.experts.0.down_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "lm_head": {"quant_algo": "FP8"},
    }
    quantization = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    scheme = read_quantization({}, {"quantization": {**quantization, "kv_cache_quant_algo": "FP8"}})
    assert names(scheme, Q, EXPERTS, HEAD, UP) == ["fp8", "nvfp4", "fp8", None]
    assert scheme.kv_dtype == "fp8"


def test_modelopt_inside_config_json():
    """The same settings under quantization_config, with `ignore` for the excluded names."""
    scheme = read_quantization(
        config(
            quant_method="modelopt",
            quant_algo="NVFP4",
            ignore=["*.mlp.gate", "lm_head"],
            kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False},
        )
    )
    assert names(scheme, Q, LINEAR_ROUTER, EXPERTS) == ["nvfp4", None, "nvfp4"]
    assert scheme.kv_dtype == "fp8"


def test_nested_settings():
    """Settings inside text_config count, and outer ones come first."""
    scheme = read_quantization({"text_config": config(quant_method="fp8")})
    assert names(scheme, Q) == ["fp8"]


@pytest.mark.parametrize("method", ["torchao", "hqq", "something-new"])
def test_unknown_methods_are_noted(method):
    """Unknown is said, not guessed."""
    scheme = read_quantization(config(quant_method=method))
    assert names(scheme, Q, EXPERTS) == [None, None]
    assert "weights priced as stored dtype" in scheme.notes[0]


def test_settings_that_are_no_object():
    """A section of another type is an input error."""
    with pytest.raises(InvalidInputError, match="not an object"):
        read_quantization({"quantization_config": ["fp8"]})
    with pytest.raises(InvalidInputError, match="not an object"):
        read_quantization({}, {"quantization": "FP8"})


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published configs are not at hand")
@pytest.mark.parametrize(
    ("name", "modes", "kv_dtype"),
    [
        ("Qwen--Qwen3-8B", [None, None, None, None, None], None),
        ("Qwen--Qwen3-32B-FP8", ["fp8_block", "fp8_block", "fp8_block", None, None], None),
        ("Qwen--Qwen3-235B-A22B-FP8", ["fp8_block", "fp8_block", "fp8_block", None, None], None),
        ("MiniMaxAI--MiniMax-M2.5", ["fp8_block", "fp8_block", "fp8_block", None, None], None),
        ("deepseek-ai--DeepSeek-V4-Flash", ["fp8_block"] * 2 + ["w4a8_mxfp4"] + [None] * 2, None),
        ("moonshotai--Kimi-K3", [None, None, "mxfp4", None, None], None),
        ("nvidia--Llama-3.1-70B-Instruct-FP8", ["fp8", "fp8", "fp8", None, None], "fp8"),
        ("nvidia--Qwen3-235B-A22B-NVFP4", ["nvfp4", "nvfp4", "nvfp4", None, None], "fp8"),
        ("openai--gpt-oss-20b", [None, None, "mxfp4", None, None], None),
    ],
)
def test_published_settings(name, modes, kv_dtype):
    """What the publishers quantised: attention, feed-forward, experts; never router and head."""
    folder = PUBLISHED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not at hand")
    raw = json.loads((folder / "config.json").read_text())
    quant = folder / "hf_quant_config.json"
    scheme = read_quantization(raw, json.loads(quant.read_text()) if quant.is_file() else None)
    assert names(scheme, Q, UP, EXPERTS, ROUTER, HEAD) == modes
    assert scheme.kv_dtype == kv_dtype
    assert {mode for mode in modes if mode} <= set(QUANT_MODES)
