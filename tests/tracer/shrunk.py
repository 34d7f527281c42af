"""Any model type of transformers as a small config: its default one, shrunk by rules, its pattern of layers kept.

A rule gives a new value to a field that the default config has. Fields that a config derives from others (widths of
heads, ranks) are left out, so that the class derives them again. Lists with an entry per layer keep the first entry of
each kind and are filled up in their own order. What the rules do not settle stands under `EXCEPTIONS`.
"""

from __future__ import annotations

import functools
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.tracer.older import NOT_YET

Config = dict[str, Any]  # Any: a config.json

DEPTH = 4
WINDOW = 11


def _sizes(value: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), value)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RULES: dict[str, int] = {
    **_sizes(64, "hidden_size n_embd d_model emb_dim embedding_size word_embed_proj_dim lru_width"),
    **_sizes(88, "intermediate_size ffn_dim ffn_hidden_size decoder_ffn_dim dense_intermediate_size"),
    **_sizes(72, "intermediate_size_mlp n_inner dim_ff dff"),
    **_sizes(40, "moe_intermediate_size expert_ffn_hidden_size"),
    **_sizes(56, "shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size"),
    **_sizes(56, "moe_shared_expert_intermediate_size"),
    **_sizes(DEPTH, "num_hidden_layers n_layer n_layers num_layers decoder_layers"),
    **_sizes(4, "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads"),
    **_sizes(4, "swa_num_attention_heads linear_num_heads linear_num_value_heads index_n_heads"),
    **_sizes(2, "linear_num_key_heads swa_num_key_value_heads"),
    **_sizes(16, "head_dim linear_head_dim swa_head_dim dim_head index_head_dim linear_value_head_dim"),
    **_sizes(8, "linear_key_head_dim rotary_dim"),
    **_sizes(97, "vocab_size vocab_size_per_layer_input"),
    **_sizes(24, "kv_lora_rank"),
    **_sizes(32, "q_lora_rank"),
    **_sizes(12, "qk_nope_head_dim"),
    **_sizes(8, "qk_rope_head_dim hidden_size_per_layer_input laurel_rank"),
    **_sizes(20, "v_head_dim"),
    **_sizes(8, "num_experts num_local_experts moe_num_experts n_routed_experts"),
    **_sizes(2, "num_experts_per_tok num_experts_per_token moe_topk moe_k"),
    **_sizes(1, "first_k_dense_replace num_dense_layers moe_layer_start_index"),
    **_sizes(DEPTH - 1, "moe_layer_end_index"),
    **_sizes(WINDOW, "sliding_window window_size attention_window_size sliding_window_size local_attention"),
    **_sizes(16, "attention_chunk_size chunk_size mamba_chunk_size"),
    **_sizes(10, "index_topk"),
    **_sizes(9, "state_size ssm_state_size mamba_d_state"),
    **_sizes(8, "mamba_num_heads mamba_n_heads"),
    **_sizes(16, "mamba_head_dim mamba_d_head"),
    **_sizes(5, "time_step_rank mamba_dt_rank"),
    **_sizes(1024, "max_position_embeddings n_positions max_seq_len"),
}  # fmt: skip

#: Types whose small configs run on the CPU and are traced whole. A version of transformers may lack some.
TYPES = _names(
    """
    afmoe apertus arcee aria_text axk1 axk2 bailing_hybrid bamba beam biogpt bitnet bloom codegen cohere
    cohere2 cohere2_moe ctrl cwm deepseek_v2 deepseek_v3 deepseek_v32 diffllama doge dots1 dots3_note ernie4_5
    ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo flint fuyu gemma gemma2 gemma3
    gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_assistant gemma4_unified_text
    glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neox
    gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid
    granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax inkling_text
    internlm3 iquestcoder jais2 jamba kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3 llama llama4 llama4_text
    mamba mamba2 mellum mimo_v2_flash minicpm3 minimax_m2 minimax_m3_vl_text ministral ministral3 mistral
    mixtral modernbert-decoder moss_transcribe_diarize nanochat nemotron nemotron_h olmo olmo2 olmo3
    olmo_hybrid olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5 qwen3_5_moe
    qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen4_exp_text seed_oss smollm3 solar_open stablelm starcoder2
    vaultgemma youtu trocr phi4_multimodal mpt gpt_neo deepseek_v4 zaya minimax rwkv recurrent_gemma
    """
)
AVAILABLE = tuple(n for n in TYPES if n in CONFIG_MAPPING and n not in NOT_YET)

#: Fields of several groups: groups times what is in each is the whole.
_GROUPS = {"n_group": 4, "topk_group": 2, "num_expert_group": 4, "n_groups": 2, "mamba_n_groups": 2}

#: What the rules do not settle, by type.
_PART = {"num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 112}
_HYBRID = ["linear_attention", "full_attention", "linear_attention", "linear_attention"]
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
EXCEPTIONS: dict[str, Config] = {
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {
        "n_routed_experts": 8,
        "moe_intermediate_size": 40,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
    },
    "falcon_h1": {"mamba_d_ssm": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "mamba"]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "biogpt": {"num_hidden_layers": 3},
    "blt": {
        "patch_in_forward": False,
        "encoder_hash_byte_group_vocab": 50,
        "global_config": {"hidden_size": 96, **_PART},
        "encoder_config": {"hidden_size": 48, "hidden_size_global": 96, **_PART},
        "decoder_config": {"hidden_size": 48, "hidden_size_global": 96, **_PART},
    },
    "deepseek_v4": {
        "head_dim": 16,
        "partial_rotary_factor": 0.5,
        "o_groups": 2,
        "o_lora_rank": 20,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "hc_sinkhorn_iters": 3,
    },
    "gemma3n_text": {
        "intermediate_size": [88] * DEPTH,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
        "ple_layer_ids": [1],
        "ple_embed_dim": 32,
        "heads_per_ngram": 4,
        "ngram_vocab_size_base": 50,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 1,
        "eos_token_id": 1,
        "hc_count": 3,
        "hc_lowrank": 12,
        "indexer_n_heads": 3,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
        },
    },
    "phi4_multimodal": {
        "vision_config": {**_TOWER, "num_hidden_layers": 1},
        "audio_config": {
            **_TOWER,
            "num_blocks": 1,
            "ext_pw_out_channel": 32,
            "nemo_conv_channels": 32,
        },
    },
    "xlstm": {"hidden_size": 512, "embedding_dim": 512},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 20},
}


def picked(entries: list[Any], depth: int = DEPTH) -> list[int]:
    """Which layers stay: the first of each kind, and the first others up to `depth`."""
    kinds = [repr(e) for e in entries]
    firsts = {kinds.index(k) for k in kinds}
    others = [i for i in range(len(entries)) if i not in firsts]
    return sorted([*firsts, *others[: max(0, depth - len(firsts))]])


def _rows(default: Config, depth: int) -> dict[str, list[Any]]:
    """Lists with an entry per layer, cut to the same layers."""
    lists = {
        k: v for k, v in default.items() if isinstance(v, list | tuple) and len(v) == depth > DEPTH
    }
    lists = {k: list(v) for k, v in lists.items() if list(v) != list(range(depth))}
    if not lists:
        return {}
    keep = picked(list(zip(*lists.values(), strict=True)))
    return {name: [values[i] for i in keep] for name, values in lists.items()}


@functools.cache
def default(model_type: str) -> Config:
    """The text part of a type's default config, as its class writes it."""
    config = CONFIG_MAPPING[model_type]()
    found = config.get_text_config(decoder=True)
    return {**found.to_dict(), "model_type": found.model_type}


def shrunk(model_type: str) -> Config:
    """A small config of a type."""
    whole = default(model_type)
    depth = next((whole[n] for n in ("num_hidden_layers", "n_layer") if whole.get(n)), 0)
    rows = _rows(whole, depth)
    small: Config = {"model_type": whole["model_type"]}
    small |= {k: v for k, v in RULES.items() if isinstance(whole.get(k), int) and whole[k]}
    small |= {k: v for k, v in _GROUPS.items() if (whole.get(k) or 0) > 1}
    small |= rows
    if rows:
        small["num_hidden_layers"] = len(next(iter(rows.values())))
    if isinstance(kv := whole.get("num_key_value_heads"), int):
        small["num_key_value_heads"] = (
            4 if kv == whole.get("num_attention_heads") else 1 if kv == 1 else 2
        )
    if "qk_rope_head_dim" in small and "head_dim" in small:
        small["head_dim"] = small["qk_rope_head_dim"]
    outside = [k for k in whole if k.endswith("token_id") and isinstance(whole[k], int)]
    small |= {
        k: int(k.startswith("eos")) for k in outside if whole[k] >= small.get("vocab_size", 0)
    }
    return {**small, **EXCEPTIONS.get(model_type, {})}
