"""Lists of a config that are as long as the model is deep by chance."""

from __future__ import annotations

from tests.tracer import small_models
from tracer import analysis

BASE = {"model_type": "falcon_h1", "vocab_size": 173, "num_hidden_layers": 5}


def test_multipliers_as_many_as_layers_only_cost_time():
    """Five multipliers and five layers: layers are told apart for nothing, and every sum stays the same."""
    alike, apart = (
        analysis.analyse(
            small_models.write({**BASE, "ssm_multipliers": values}), analysis.Options()
        )
        for values in ([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])
    )
    assert [layer["count"] for layer in alike["layers"]] == [5]
    assert [layer["count"] for layer in apart["layers"]] == [1] * 5
    assert alike["conservation"]["exact"]
    assert apart["conservation"]["exact"]
    assert apart["weight_bytes"] == alike["weight_bytes"]
    for size in ("bytes_per_token", "bytes_per_sequence", "expression"):
        assert apart["kv_cache"][size] == alike["kv_cache"][size]
