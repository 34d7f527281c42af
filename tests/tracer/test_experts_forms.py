"""Experts that a model stores and calls in forms of its own: found by form, exact in both phases."""

import json

import pytest

from tests.tracer import toy
from tracer.analysis import Options, analyse
from tracer.boundaries.grouped_linear import _OP

SMALL = {
    "dbrx": {
        "d_model": 48, "n_heads": 6, "n_layers": 3, "max_seq_len": 4096, "vocab_size": 173,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000},
        "ffn_config": {"ffn_hidden_size": 56, "moe_num_experts": 5, "moe_top_k": 2},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000},
    },
    "jetmoe": {
        "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3, "vocab_size": 173,
        "num_key_value_heads": 3, "kv_channels": 14, "num_local_experts": 5, "num_experts_per_tok": 2,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "op"), [("dbrx", "moe"), ("jetmoe", "grouped_gemm")])
def test_exact(tmp_path, name, op):
    """No primitive is left, and weights and FLOPs are the model's own."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": name, **SMALL[name]}))
    report = analyse(str(path), Options())
    assert report["conservation"]["exact"]
    assert report["unsupported"] == []
    assert {op} <= {o["op"] for o in report["op_list"]["phases"]["generation"]}


def test_matrices_of_data_are_a_near_miss():
    """A product with matrices that are computed is no projection of experts."""
    found = toy.matched(
        lambda m, x: _OP(x[0], (m.w + 1) * x.sum()), w=toy.parameter(3, 9, toy.WIDTH)
    )
    assert "grouped_gemm: its matrices are no parameter" in toy.reasons(found)
