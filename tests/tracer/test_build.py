"""Building on meta: the right class, exact parameter counts, no weights, and an untouched config."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from oplib.errors import UnsupportedModelError
from tracer.build import CausalLM, build_model
from tracer.resolve import resolve

PUBLISHED = Path(__file__).parents[3] / "shared" / "model_configs"
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
}
# attention: q 64x64, k and v 64x32 each, o 64x64 = 12288; mlp 3x64x128 = 24576; norms 2x64
LLAMA_PARAMETERS = 2 * (12288 + 24576 + 128) + 64 + 2 * 100 * 64

PARAMETERS = {
    "Qwen--Qwen3-8B": 8_190_735_360,
    "meta-llama--Meta-Llama-3.1-405B": 405_853_388_800,
    "mistralai--Mixtral-8x7B-v0.1": 46_702_792_704,
    "Qwen--Qwen3-30B-A3B": 30_532_122_624,
    "deepseek-ai--DeepSeek-V3": 671_026_419_200,
    "moonshotai--Kimi-K2-Instruct": 1_026_408_232_448,
    "openai--gpt-oss-20b": 20_914_757_184,
    "Qwen--Qwen3-VL-8B-Instruct": 8_190_735_360,
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31_577_940_288,
}


def resolved(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return resolve(str(path))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_plain_decoder(tmp_path):
    """Parameters are exact, on meta, in the dtype asked for; the resolved config is not changed."""
    model_config = resolved(tmp_path, {"model_type": "llama", **SMALL})
    before = model_config.config.to_dict()
    model = build_model(model_config, dtype=torch.float32, **EAGER)
    assert count(model) == LLAMA_PARAMETERS
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert model_config.config.to_dict() == before
    assert model.config is not model_config.config
    assert model.config.num_hidden_layers == 2


@pytest.mark.parametrize("model_type", ["qwen3_vl", "step3p7", "mllama", "gemma3"])
def test_nested_text_models(tmp_path, model_type):
    """The text part of a multimodal config runs both phases, whether transformers has a causal class or not."""
    text = {**SMALL, "pad_token_id": 0, "num_experts_per_tok": 2, "n_routed_experts": 4}
    text |= {"moe_intermediate_size": 32, "share_expert_dim": 32}
    if model_type == "mllama":
        text["cross_attention_layers"] = []
    if model_type == "step3p7":
        text |= {"mlp_layer_types": ["dense", "dense"], "sliding_window": 4}
    model = build_model(
        resolved(tmp_path, {"model_type": model_type, "text_config": text}), **EAGER
    )
    ids = torch.zeros(2, 7, dtype=torch.long, device="meta")
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        first = model(input_ids=ids, past_key_values=cache, use_cache=True)
        second = model(input_ids=ids[:, :1], past_key_values=first.past_key_values, use_cache=True)
    assert first.logits.shape == (2, 7, 100)
    assert second.logits.shape == (2, 1, 100)
    assert second.past_key_values.get_seq_length() == 8


@pytest.mark.parametrize("tied", [False, True])
def test_wrapped_backbone_has_the_head_of_the_outer_model(tmp_path, tied):
    """The added head is counted once when it is tied, as in the whole model."""
    config = {"model_type": "qwen3_vl", "text_config": SMALL, "tie_word_embeddings": tied}
    model = build_model(resolved(tmp_path, config), **EAGER)
    assert isinstance(model, CausalLM)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    head_norms = 2 * 2 * 16  # q_norm and k_norm in both layers
    assert count(model) == LLAMA_PARAMETERS + head_norms - (6400 if tied else 0)


def test_variation_with_fewer_layers(tmp_path):
    """A copy of the resolved model with another config builds that config."""
    model_config = resolved(tmp_path, {"model_type": "llama", **SMALL})
    config = type(model_config.config).from_dict(
        {**model_config.config.to_dict(), "num_hidden_layers": 1}
    )
    model = build_model(dataclasses.replace(model_config, config=config), **EAGER)
    assert len(model.model.layers) == 1


def test_a_constructor_that_fails_is_one_error(tmp_path):
    """What a model's own constructor refuses is reported with its words."""
    config = {"model_type": "llama", **SMALL, "hidden_act": "no_such_activation"}
    with pytest.raises(UnsupportedModelError, match="no_such_activation") as caught:
        build_model(resolved(tmp_path, config), **EAGER)
    assert caught.value.__cause__ is not None


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published configs are not at hand")
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_published_parameter_counts(name):
    """Parameter counts of published models, as their model cards state them."""
    folder = PUBLISHED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not at hand")
    model = build_model(resolve(str(folder)), **EAGER)
    # model cards count the routers' correction bias, which transformers keeps as a buffer
    biases = sum(b.numel() for n, b in model.named_buffers() if n.endswith("correction_bias"))
    assert count(model) + biases == PARAMETERS[name]
