"""Code that a model ships, run because it was asked for, is traced like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODELING = """
import pathlib
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

pathlib.Path({mark!r}).write_text("ran")


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.extra = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.model.norm = nn.Sequential(self.model.norm, self.extra)
        self.post_init()
"""


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of a model with its own code, and a file that the code writes when it runs."""
    folder, mark = tmp_path / "own", tmp_path / "mark"
    folder.mkdir()
    config = {
        "model_type": "own_llama", "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(MODELING.format(mark=str(mark)))
    return folder, mark


@pytest.mark.slow
def test_traced_when_asked(own, monkeypatch, tmp_path):
    folder, mark = own
    code = (
        "import json, sys; from tracer.analysis import Options, analyse;"
        "print(json.dumps(analyse(sys.argv[1], Options(lowering='eager'), trust_remote_code=True)))"
    )
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert mark.exists()
    assert found["architecture"] == "OwnForCausalLM"
    assert found["conservation"]["exact"]
    assert found["situation"] == "S1-or-S2"
    extra = [o for o in found["op_list"]["phases"]["context"] if o["name"].endswith("norm.1")]
    assert [(o["op"], o["count"], o["params"]["n"], o["params"]["k"]) for o in extra] == [
        ("gemm", 1, 64, 64)
    ]
