"""A multimodal model whose config has the decoder's sizes at its top is traced without its towers."""

import json

from tracer.analysis import Options, analyse

SIZES = {
    "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 9000, "vocabulary_map": {"<image>": 7, "IMGIMGBZ": 4},
    "tie_word_embeddings": False,
}  # fmt: skip


def test_the_towers_are_left_out(tmp_path):
    """Parameters: 2 tables of 9000x64, 3 layers of q, o 64x64, k, v 64x32, mlp 3x64x112 and norms."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "chameleon", **SIZES}))
    report = analyse(str(path), Options())
    # two norms of 64 per layer, and of queries and keys: weight and bias per head and feature of 16
    norms = 2 * 64 + 2 * (4 * 16 + 2 * 16)
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 112 + norms
    assert report["parameters"] == 2 * 9000 * 64 + 3 * layer + 64
    assert report["conservation"]["exact"]
    assert any("vq_config is left out" in note for note in report["notes"])
