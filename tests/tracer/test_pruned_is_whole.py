"""Representative layers give the op list of the full depth, for stacks of every shape."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.tracer import small_models
from tests.tracer.small_models import DECODER_ALONE, SMALL
from tracer import analysis
from tracer.prune import prune

_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 173,
    "max_position_embeddings": 131072,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING, FULL = "sliding_attention", "full_attention"
#: What makes each stack hard to prune -> its config.
STACKS: dict[str, dict[str, Any]] = {
    "tables sized by depth, cache shared by the last layers": {
        **_SIZES, "model_type": "gemma3n_text", "num_hidden_layers": 10, "num_kv_shared_layers": 4,
        "layer_types": [SLIDING, FULL] * 5, "sliding_window": 16, "vocab_size_per_layer_input": 173,
        "hidden_size_per_layer_input": 10, "laurel_rank": 6, "activation_sparsity_pattern": [0.0] * 10,
        "intermediate_size": [112] * 10,
    },
    "tables sized by depth, two head sizes": {
        **_SIZES, "model_type": "gemma4_text", "num_hidden_layers": 6, "num_kv_shared_layers": 2,
        "layer_types": [SLIDING, SLIDING, FULL] * 2, "sliding_window": 16, "global_head_dim": 16,
        "vocab_size_per_layer_input": 173, "hidden_size_per_layer_input": 10,
    },
    "the cache asks its first attention layer": {
        **_SIZES, "model_type": "jamba", "num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 2,
        "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 6, "use_mamba_kernels": False,
    },
    "the cache asks its last recurrent layer": SMALL["nemotron_h"],
    "a block shared between layers": {
        **_SIZES, "model_type": "zamba", "num_hidden_layers": 8, "attn_layer_period": 3, "attn_layer_offset": 1,
        "num_key_value_heads": 6, "attention_head_dim": 16, "mamba_d_state": 8, "n_mamba_heads": 2,
        "mamba_dt_rank": 6, "use_mamba_kernels": False,
    },
    "two blocks shared in turn, adapters of their own": {
        **_SIZES, "model_type": "zamba2", "num_hidden_layers": 8, "hybrid_layer_ids": [1, 3, 5, 7],
        "layers_block_type": ["mamba", "hybrid"] * 4, "num_mem_blocks": 2, "num_key_value_heads": 6,
        "attention_head_dim": 16, "mamba_d_state": 8, "n_mamba_heads": 4, "mamba_expand": 2, "mamba_ngroups": 1,
        "adapter_rank": 4, "use_mem_eff_path": False,
    },
    "two attention blocks in each layer": {
        **_SIZES, "model_type": "longcat_flash", "num_layers": 3, "num_hidden_layers": 6, "ffn_hidden_size": 112,
        "q_lora_rank": 28, "kv_lora_rank": 20, "qk_nope_head_dim": 14, "qk_rope_head_dim": 6, "v_head_dim": 18,
        "num_key_value_heads": 6, "head_dim": 6, "moe_topk": 2, "n_routed_experts": 4, "zero_expert_num": 2,
        "expert_ffn_hidden_size": 26,
    },
    "two stacks that run in cycles": {
        **_SIZES, "model_type": "hrm_text", "num_layers_per_stack": 3, "num_hidden_layers": 18, "H_cycles": 2,
        "L_cycles": 2, "num_key_value_heads": 6,
    },
    "modules that run on every second layer, indices that grow": SMALL["llama4"],
    "a decoder alone": DECODER_ALONE,
    "a decay that each layer's index gives": {
        **_SIZES, "model_type": "minimax", "num_hidden_layers": 6, "num_local_experts": 4, "num_experts_per_tok": 2,
        "block_size": 16,
    },
    "layers in one state, a first layer with a norm more": {
        "model_type": "rwkv", "hidden_size": 48, "attention_hidden_size": 48, "intermediate_size": 112,
        "num_hidden_layers": 8, "vocab_size": 173, "rescale_every": 3,
    },
    "a cache in the layers that the model sets up": {
        **_SIZES, "model_type": "recurrent_gemma", "num_hidden_layers": 6, "lru_width": 48, "attention_window_size": 16,
        "num_key_value_heads": 1,
    },
}  # fmt: skip


def reports(config: dict[str, Any]) -> tuple[dict, dict]:
    """The report from representative layers, and the one at full depth."""
    path, options = small_models.write(config), analysis.Options(lowering="eager")
    pruned = analysis.report(analysis.trace_model(path), options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "prune", lambda model, label, **_: prune(model, label, whole=True))
        return pruned, analysis.report(analysis.trace_model(path), options)


def merged(report: dict, phase: str) -> Counter:
    """Occurrences of each distinct op."""
    found: Counter = Counter()
    for op in report["op_list"]["phases"][phase]:
        params = {k: v for k, v in op["params"].items() if k != "tied"}
        place = op["name"].rpartition(".")[2] if op["layer"] else op["name"]
        key = (op["op"], place, str(params), str(op["dims"]), op["flops"], op["bytes"])
        found[key] += op["count"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STACKS))
def test_pruned_is_whole(name):
    """Op by op, to the last byte and FLOP; a type that falls back to the full depth fails here."""
    pruned, whole = reports(STACKS[name])
    assert not pruned["full_depth"], pruned["notes"]
    assert len(pruned["layers"]) < len(whole["layers"])
    for phase in ("context", "generation"):
        assert merged(pruned, phase) == merged(whole, phase)
    for key in ("parameters", "weight_bytes"):
        assert pruned[key] == whole[key]
    for key in ("bytes_per_token", "bytes_per_sequence", "expression"):
        assert pruned["kv_cache"][key] == whole["kv_cache"][key]
    for found in (pruned, whole):
        assert found["conservation"]["exact"]
    assert pruned["conservation"]["flops"] == whole["conservation"]["flops"]
    assert pruned["conservation"]["weights"] == whole["conservation"]["weights"]
