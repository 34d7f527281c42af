"""Small configs of one model per family, each traced once per test session.

Sizes are odd and differ from each other, so that a swapped dimension changes a number. No two families agree in
depth and widths, and windows and chunks are shorter than the workloads that the tests run.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tracer import analysis, assemble
from tracer.build import quiet_transformers
from tracer.match import match
from tracer.match.claim import Matched
from tracer.match.flow import Flow
from tracer.weights import Weights

Config = dict[str, Any]  # Any: a config.json

_SLIDING, _FULL = "sliding_attention", "full_attention"
_PLAIN = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "vocab_size": 173,
    "max_position_embeddings": 131072,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LATENT = {
    **_PLAIN,
    "num_key_value_heads": 6,
    "head_dim": 6,
    "q_lora_rank": 28,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 14,
    "qk_rope_head_dim": 6,
    "v_head_dim": 18,
    "moe_intermediate_size": 26,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 2,
}
_DELTA = {
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 9,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "moe_intermediate_size": 22,
    "shared_expert_intermediate_size": 34,
    "num_experts": 7,
    "num_experts_per_tok": 2,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
}  # fmt: skip

SMALL: dict[str, Config] = {
    "llama": {"model_type": "llama", **_PLAIN},
    "llama_tied": {"model_type": "llama", **_PLAIN, "tie_word_embeddings": True, "attention_bias": True},
    "qwen3": {"model_type": "qwen3", **_PLAIN, "num_hidden_layers": 7},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        **_PLAIN,
        "num_experts": 9,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 30,
        "mlp_only_layers": [1],
    },
    "deepseek_v3": {"model_type": "deepseek_v3", **_LATENT},
    "deepseek_v32": {
        "model_type": "deepseek_v32",
        **_LATENT,
        "index_topk": 12,
        "index_head_dim": 16,
        "index_n_heads": 5,
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        **_PLAIN,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "sliding_window": 11,
    },
    "gemma2": {"model_type": "gemma2", **_PLAIN, "sliding_window": 13, "query_pre_attn_scalar": 10},
    "gemma3": {
        "model_type": "gemma3_text",
        **_PLAIN,
        "num_hidden_layers": 8,
        "sliding_window": 17,
        "sliding_window_pattern": 3,
    },
    "gemma4": {
        "model_type": "gemma4_text",
        **_PLAIN,
        "sliding_window": 19,
        "layer_types": [_SLIDING, _SLIDING, _FULL, _SLIDING, _FULL],
        "hidden_size_per_layer_input": 0,
        "global_head_dim": 14,
        "num_global_key_value_heads": 1,
    },
    "nemotron_h": {
        "model_type": "nemotron_h",
        **_PLAIN,
        "layers_block_type": ["mamba", "moe", "mamba", "attention", "moe", "mamba"],
        "ssm_state_size": 18,
        "mamba_num_heads": 8,
        "mamba_head_dim": 12,
        "n_groups": 2,
        "conv_kernel": 3,
        "chunk_size": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 38,
        "moe_shared_expert_intermediate_size": 46,
    },
    "qwen3_next": {"model_type": "qwen3_next", **_PLAIN, **_DELTA, "head_dim": 12, "partial_rotary_factor": 0.5},
    "qwen3_5_moe": {"model_type": "qwen3_5_moe_text", **_PLAIN, **_DELTA, "head_dim": 12, "hidden_size": 54},
    "kimi_linear": {
        "model_type": "kimi_linear",
        **_LATENT,
        "q_lora_rank": None,
        "num_local_experts": 8,
        "n_group": 1,
        "topk_group": 1,
        "linear_head_dim": 8,
        "linear_num_heads": 5,
        "linear_conv_kernel_dim": 3,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse", "sparse"],
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
    },
    "llama4": {
        "model_type": "llama4_text",
        **_PLAIN,
        "intermediate_size": 58,
        "intermediate_size_mlp": 116,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "moe_layers": [1, 3],
        "attention_chunk_size": 23,
        "no_rope_layer_interval": 4,
    },
    "mamba2": {
        "model_type": "mamba2",
        "hidden_size": 44,
        "num_heads": 8,
        "head_dim": 11,
        "state_size": 10,
        "n_groups": 2,
        "conv_kernel": 5,
        "chunk_size": 16,
        "num_hidden_layers": 3,
        "vocab_size": 131,
    },
    "jamba": {
        "model_type": "jamba",
        **{k: v for k, v in _PLAIN.items() if k != "head_dim"},
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "mamba_d_state": 7,
        "mamba_d_conv": 3,
        "mamba_dt_rank": 5,
    },
    "cohere": {"model_type": "cohere", **{k: v for k, v in _PLAIN.items() if k != "head_dim"}, "use_qk_norm": True},
    "phi3": {"model_type": "phi3", **{k: v for k, v in _PLAIN.items() if k != "head_dim"}},
    "mixtral_fp8": {
        "model_type": "mixtral",
        **_PLAIN,
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "quantization_config": {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        },
    },
}  # fmt: skip
#: A decoder without the encoder that its cross-attention reads.
DECODER_ALONE = {
    "model_type": "bart",
    "architectures": ["BartForCausalLM"],
    "d_model": 48,
    "decoder_layers": 3,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 112,
    "encoder_layers": 3,
    "vocab_size": 173,
    "max_position_embeddings": 131072,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "is_decoder": True,
}
NAMES = tuple(sorted(SMALL))
#: Configs that a test module brings along, by name: no other test runs over them.
BROUGHT: dict[str, Config] = {}
#: Its cache holds rests of blocks, so that its work does not grow with every length: it has tests of its own.
SMALL["deepseek_v4"] = {
    "model_type": "deepseek_v4",
    **_PLAIN,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "q_lora_rank": 22,
    "moe_intermediate_size": 26,
    "n_routed_experts": 7,
    "num_experts_per_tok": 3,
    "sliding_window": 11,
    "o_groups": 2,
    "o_lora_rank": 14,
    "index_n_heads": 5,
    "index_head_dim": 16,
    "index_topk": 9,
    "hc_mult": 3,
    "hc_sinkhorn_iters": 2,
    "partial_rotary_factor": 0.5,
    "num_hidden_layers": 3,
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
    ],
    "compress_rates": {"compressed_sparse_attention": 5, "heavily_compressed_attention": 12},
    "mlp_layer_types": ["hash_moe", "moe", "moe"],
}

#: Models whose work the FLOP counter sees whole: no scan and no short convolution.
WITHOUT_SCANS = tuple(
    n
    for n in NAMES
    if n not in ("nemotron_h", "qwen3_next", "qwen3_5_moe", "kimi_linear", "mamba2", "jamba")
)
#: Traced by every run of the fast tests: together they need each matcher and each rewrite. The others are slow.
FAST = (
    "llama",
    "llama_tied",
    "qwen3_moe",
    "deepseek_v3",
    "gpt_oss",
    "nemotron_h",
    "llama4",
    "mixtral_fp8",
)


def each(names: Iterable[str] = NAMES) -> list[Any]:
    """These models as test parameters, those that are not fast marked slow."""
    return [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in names]


def step(model: nn.Module, ids: torch.Tensor, cache: Any = None) -> Any:
    """Run a model of transformers over a cache, and give the cache it leaves, whatever either calls it. A model that
    returns none has filled the one it was handed.
    """
    taken = inspect.signature(model.forward).parameters
    name = next(n for n in ("cache_params", "past_key_values", "state") if n in taken)
    with torch.no_grad(), quiet_transformers():
        out = model(input_ids=ids, use_cache=True, **{name: cache})
    return out.get(name, cache)


@functools.cache
def folder(name: str) -> str:
    """A folder that holds the config of a small model."""
    return write((SMALL | BROUGHT)[name], name)


def write(config: Config, name: str = "model") -> str:
    """A new folder with this config."""
    path = Path(tempfile.mkdtemp(prefix="small-models-")) / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(path)


@functools.cache
def traced(name: str) -> analysis.Traced:
    """Both phases of a small model. Shared: nothing may change it."""
    return analysis.trace_model(folder(name))


@functools.cache
def _report(name: str, lowering: str) -> Config:
    return analysis.report(traced(name), analysis.Options(lowering=lowering))


def report(name: str, lowering: str = "serving") -> Config:
    """The report of a small model under a lowering."""
    return copy.deepcopy(_report(name, lowering))


def matched(name: str, phase: str, *, without: tuple[str, ...] = ()) -> Matched:
    """A fresh match of one phase, which a test may lower."""
    found = traced(name)
    result = match(Flow(found.traces[phase], found.pruning), without=without)
    assemble.set_modes(result, weights(name))
    return result


def weights(name: str) -> Weights:
    """The weights of a small model."""
    found = traced(name)
    return Weights(model=found.model, pruning=found.pruning, scheme=found.scheme)
