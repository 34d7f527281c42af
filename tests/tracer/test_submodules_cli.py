"""`trace-model --submodules` lists, as a table and as JSON."""

from __future__ import annotations

import json

from tests.tracer import small_models
from tracer import cli


def test_json_lists_each_part(capsys):
    """Paths, roles, counts, bytes by hand, and the ops inside under the lowering asked for."""
    assert cli.main([small_models.folder("llama"), "--submodules", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = {part["name"]: part for part in found["submodules"]}
    assert [part["role"] for part in parts.values()] == ["layer", "attention", "mlp", "norm"]
    assert {part["count"] for part in parts.values()} == {5}
    assert parts["model.layers.0.mlp"]["weight_bytes"] == 2 * 3 * 48 * 112
    assert parts["model.layers.0.mlp"]["ops"]["context"] == [
        "gemm mlp.gate_up_proj", "pointwise mlp.act_fn+mlp", "gemm mlp.down_proj",
    ]  # fmt: skip
    assert parts["model.layers.0.input_layernorm"]["alike"] == 2


def test_the_table_names_each_part(capsys):
    """One row each, below its layer."""
    assert cli.main([small_models.folder("llama"), "--submodules"]) == 0
    text = capsys.readouterr().out
    for word in ("model.layers.0  x5", "self_attn", "LlamaMLP", "input_layernorm"):
        assert word in text


def test_no_report_is_made(tmp_path, capsys):
    """Outputs of the report do not go with it."""
    assert cli.main(["x", "--submodules", "--html", str(tmp_path / "page.html")]) == 2
    assert "--submodules makes no report" in capsys.readouterr().err
