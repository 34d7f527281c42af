"""Resolving a model path: which config class is chosen, and one clear error for everything else."""

import json
from pathlib import Path

import pytest
import transformers
from huggingface_hub import constants

from oplib.errors import InvalidInputError, ModelNotFoundError, UnsupportedModelError
from tracer.resolve import resolve

PUBLISHED = Path(__file__).parents[3] / "shared" / "model_configs"

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]} | {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_hidden_layers": 3,
    "hidden_size": 64,
}
QWEN_VL_TEXT = {k: v for k, v in LLAMA.items() if k not in ("architectures", "model_type")}
QWEN_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "text_config": {"model_type": "qwen3_vl_text", **QWEN_VL_TEXT},
    "tie_word_embeddings": True,
}


@pytest.fixture
def write(tmp_path):
    def write_config(config, name="config.json"):
        path = tmp_path / name
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return str(path)

    return write_config


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty Hub cache and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_file_folder_and_other_names_are_the_same_model(write, tmp_path):
    """A folder, its config.json and a JSON file of any name resolve alike."""
    path = write(LLAMA)
    other = write(LLAMA, "small.json")
    for model_path in (path, other, str(tmp_path)):
        resolved = resolve(model_path)
        assert resolved.path == model_path
        assert resolved.source.endswith(".json")
        assert resolved.architecture == "LlamaForCausalLM"
        assert resolved.model_type == resolved.outer_model_type == "llama"
        assert type(resolved.config).__name__ == "LlamaConfig"
        assert not resolved.language_model_only
        assert resolved.quant_config == {}
        assert resolved.notes == ()
        assert resolved.raw == LLAMA


def test_shipped_code_is_ignored_for_a_known_model_type(write):
    """auto_map of a natively supported model neither runs nor prompts, and a note says so."""
    resolved = resolve(write({**LLAMA, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    assert not hasattr(resolved.config, "auto_map")
    assert not resolved.remote_code
    assert any("ships its own code" in note for note in resolved.notes)


def test_unknown_model_type_with_a_known_causal_class(write):
    """`architectures` that names a class of transformers stands in for an unknown model_type."""
    resolved = resolve(write({**DEEPSEEK, "model_type": "brand_new", "auto_map": {"a": "b.C"}}))
    assert resolved.model_type == "deepseek_v3"
    assert resolved.config.num_hidden_layers == 3
    assert any("'brand_new' is unknown" in note for note in resolved.notes)


def test_text_config_is_extracted(write):
    """A multimodal config yields its language model, a note, and the outer choice about tying."""
    resolved = resolve(write(QWEN_VL))
    assert resolved.language_model_only
    assert (resolved.outer_model_type, resolved.model_type) == ("qwen3_vl", "qwen3_vl_text")
    assert resolved.architecture == "Qwen3VLForConditionalGeneration"
    assert resolved.config.num_hidden_layers == 2
    assert resolved.config.tie_word_embeddings is True
    assert any(note.startswith("language model only") for note in resolved.notes)


def test_flat_sizes_of_a_nested_class_are_read(write):
    """Top-level sizes are not lost when the class would read them in text_config only."""
    flat = {**LLAMA, "model_type": "gemma3", "architectures": ["X"], "head_dim": 16}
    resolved = resolve(write(flat))
    assert resolved.config.num_hidden_layers == 2
    assert resolved.config.vocab_size == 100
    assert any("no text_config" in note for note in resolved.notes)


def test_defaults_that_stand_in_are_noted(write):
    """Sizes that the file leaves out come from the class, and the notes name them."""
    resolved = resolve(write({"model_type": "llama", "hidden_size": 4096, "odd_head_dim": 64}))
    assert any("num_hidden_layers" in note and "defaults" in note for note in resolved.notes)
    assert any("does not read: odd_head_dim" in note for note in resolved.notes)


def test_quantization_is_merged(write):
    """quantization_config and hf_quant_config.json end up in one dict; the class never sees them."""
    path = write({**LLAMA, "quantization_config": {"quant_method": "modelopt", "a": 1}})
    write(
        {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
        "hf_quant_config.json",
    )
    resolved = resolve(path)
    assert resolved.quant_config == {
        "quant_method": "modelopt",
        "a": 1,
        "quant_algo": "FP8",
        "exclude_modules": ["lm_head"],
    }
    assert resolved.hf_quant_config["quantization"]["quant_algo"] == "FP8"
    assert getattr(resolved.config, "quantization_config", None) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers='two'"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers=2.5"),
        ({"hidden_size": -64}, "hidden_size=-64"),
        ({"hidden_size": 10**9}, "hidden_size=1000000000"),
        ({"hidden_size": 66}, "66"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"vocab_size": 10**12}, "vocab_size=1000000000000"),
        ({"head_dim": 0}, "head_dim=0"),
        ({"intermediate_size": -5}, "intermediate_size=-5"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0"),
        ({"hidden_size": [64, "x"]}, "hidden_size='x'"),
        ({"hidden_size": float("nan")}, "hidden_size=nan"),
        ({"hidden_size": float("inf")}, "hidden_size=inf"),
    ],
)
def test_absurd_values_are_refused(write, change, words):
    """The error names the field and its value, and nothing of that size is ever built."""
    with pytest.raises(InvalidInputError) as caught:
        resolve(write({**LLAMA, **change}))
    assert words in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts_per_tok": 5}, "num_experts_per_tok=5 exceeds num_local_experts=4"),
        ({"num_local_experts": -1}, "num_local_experts=-1"),
        ({"num_local_experts": 2**16, "num_hidden_layers": 1000}, "too many experts"),
    ],
)
def test_absurd_experts_are_refused(write, change, words):
    """Experts are checked against top-k and bounded over all layers."""
    with pytest.raises(InvalidInputError, match=words):
        resolve(write({**MIXTRAL, **change}))


def test_absurd_values_in_a_nested_section(write):
    """Nested sections are held to the same bounds, and the field is named with its section."""
    config = {**QWEN_VL, "text_config": {**QWEN_VL["text_config"], "num_hidden_layers": 10**9}}
    with pytest.raises(InvalidInputError, match=r"text_config\.num_hidden_layers=1000000000"):
        resolve(write(config))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ('{"model_type": "llama", ', "not valid JSON"),
        ("[1, 2]", "a JSON list, not an object"),
        ("3", "a JSON int, not an object"),
        ("null", "a JSON NoneType, not an object"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "has no model_type"),
        ('{"model_type": "llama", "op_list": {}}', "a saved report or op list, not a config"),
        ('{"model_type": null}', "has no model_type"),
        ('{"model_type": ["llama"]}', "is not a string"),
        ('{"model_type": "qwen3_5", "text_config": {"model_type": {"a": 1}}}', "is not a string"),
    ],
)
def test_files_that_are_no_config(write, text, words):
    """Malformed, truncated and foreign JSON is one sentence about the file."""
    with pytest.raises(InvalidInputError, match=words):
        resolve(write(text))


def test_bytes_that_are_no_text(tmp_path):
    """A weights file given as a config is an input error, not a decoding trace."""
    path = tmp_path / "model.json"
    path.write_bytes(b"\x80\x81\xff\x00" * 10)
    with pytest.raises(InvalidInputError, match="not valid JSON"):
        resolve(str(path))


def test_missing_paths(tmp_path, offline):
    """A missing path, an empty folder and an unreachable Hub id each have their own sentence."""
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        resolve(str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        resolve("nowhere.json")
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        resolve(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="Hub cannot be reached"):
        resolve("someone/something")
    for odd in ("", " ", "a b", "own er/x", "x\0y"):
        with pytest.raises(InvalidInputError):
            resolve(odd)
    assert not offline.exists()


def test_cached_hub_id_works_offline(offline):
    """A Hub id in the local cache resolves without a network, and a note says where it came from."""
    commit = "0" * 40
    repo = offline / "models--someone--small"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text(json.dumps(LLAMA))
    resolved = resolve("someone/small")
    assert resolved.source == f"someone/small@{commit}"
    assert any("local cache" in note for note in resolved.notes)


def test_unknown_model_types(write):
    """Shipped code is refused with the flag to pass; a misspelt type with the nearest names."""
    shipped = {"model_type": "mystery", "architectures": ["MysteryForCausalLM"]}
    with pytest.raises(UnsupportedModelError, match="--trust-remote-code") as caught:
        resolve(write({**shipped, "auto_map": {"AutoConfig": "x.Y"}}))
    assert "MysteryForCausalLM" in caught.value.message
    with pytest.raises(UnsupportedModelError, match="qwen3") as caught:
        resolve(write({**LLAMA, "architectures": ["X"], "model_type": "qwen33"}))
    assert transformers.__version__ in caught.value.message


def test_shipped_code_never_runs_unasked(write, tmp_path):
    """A configuration module next to the config is not imported."""
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass C: pass\n")
    for model_type in ("llama", "mystery"):
        config = {**LLAMA, "model_type": model_type, "architectures": ["EvilForCausalLM"]}
        path = write({**config, "auto_map": {"AutoConfig": "evil.C"}})
        if model_type == "llama":
            resolve(path)
        else:
            with pytest.raises(UnsupportedModelError):
                resolve(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "encoder"),
        ({"model_type": "bert"}, "encoder"),
        ({"model_type": "modernbert"}, "encoder"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
        ({"model_type": "whisper"}, "encoder-decoder"),
        ({"model_type": "bart"}, "encoder-decoder"),
        ({"model_type": "vit"}, "not a causal language model"),
        ({"model_type": "clip"}, "not a causal language model"),
        ({"model_type": "siglip"}, "not a causal language model"),
        ({"model_type": "wav2vec2"}, "not a causal language model"),
        ({"_class_name": "UNet2DConditionModel", "sample_size": 64}, "diffusion"),
    ],
)
def test_other_kinds_of_model_are_refused(write, config, words):
    """Only causal decoders are traced; the refusal says what the model is."""
    with pytest.raises(UnsupportedModelError, match=words):
        resolve(write(config))


def test_diffusion_folder(tmp_path):
    """A pipeline folder is recognised by its model_index.json."""
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="diffusion"):
        resolve(str(tmp_path))


def test_decoders_of_both_families_on_request(write):
    """is_decoder turns an encoder family into a decoder; `architectures` asks for a decoder half."""
    assert resolve(write({"model_type": "bert", "is_decoder": True})).model_type == "bert"
    bart = {"model_type": "bart", "architectures": ["BartForCausalLM"], "decoder_layers": 3}
    assert resolve(write(bart)).config.num_hidden_layers == 3


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published configs are not at hand")
def test_published_configs():
    """Every published config resolves, or is refused because only its shipped code can build it."""
    for folder in sorted(PUBLISHED.iterdir()):
        raw = json.loads((folder / "config.json").read_text())
        needs_its_code = raw["model_type"] in ("kimi_k3", "nemotron-nas")
        if needs_its_code:
            with pytest.raises(UnsupportedModelError, match="--trust-remote-code"):
                resolve(str(folder))
            continue
        resolved = resolve(str(folder))
        sizes = raw.get("text_config", raw)
        assert resolved.config.hidden_size == sizes["hidden_size"], folder.name
        assert resolved.config.num_hidden_layers == sizes["num_hidden_layers"], folder.name
