"""Idle parameters: named, weighed, and never a hiding place for a weight that was lost."""

from __future__ import annotations

import functools

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.tracer import small_models
from tests.tracer.small_models import DECODER_ALONE
from tracer import analysis, idle
from tracer.boundaries.attention import attention
from tracer.build import build_model
from tracer.match import match


@functools.cache
def decoder_alone() -> dict:
    return analysis.analyse(small_models.write(DECODER_ALONE), analysis.Options())


def test_what_a_lone_decoder_never_reads_is_listed():
    """Cross-attention, four 48 x 48 projections with biases, and its norm, in each of three layers; nothing else."""
    found = decoder_alone()
    entries = {entry["module"]: entry for entry in found["idle"]}
    attention_of, norm_of = (
        "model.decoder.layers.0.encoder_attn",
        "model.decoder.layers.0.encoder_attn_layer_norm",
    )
    assert set(entries) == {attention_of, norm_of}
    assert entries[attention_of]["class"] == "BartAttention"
    assert entries[attention_of]["count"] == entries[norm_of]["count"] == 3
    assert entries[attention_of]["bytes"] == 3 * 2 * 4 * (48 * 48 + 48)
    assert entries[norm_of]["bytes"] == 3 * 2 * 2 * 48
    assert sorted(entries[norm_of]["parameters"]) == ["bias", "weight"]
    assert {entry["note"] for entry in found["idle"]} == {"no forward pass enters the module"}


def test_idle_weights_are_conserved():
    """They are part of the model's weights and of no op's."""
    found = decoder_alone()
    weights = found["conservation"]["weights"]
    assert weights["idle"] == sum(entry["bytes"] for entry in found["idle"]) > 0
    assert weights["model"] == weights["ops"] + weights["primitives"] + weights["idle"]
    assert weights["model"] == found["weight_bytes"] == 2 * found["parameters"]
    assert found["conservation"]["exact"]
    assert not found["full_depth"]


def unused(model: nn.Module) -> nn.Module:
    """Layer 0 and all others get a bias that nothing adds."""
    for layer in model.model.layers:
        layer.mlp.forgotten = nn.Parameter(torch.empty(7, device="meta", dtype=torch.bfloat16))
    return model


def test_a_parameter_of_a_module_that_runs(monkeypatch):
    """Its module is named, and that it runs."""
    monkeypatch.setattr(analysis, "build_model", lambda *a, **k: unused(build_model(*a, **k)))
    found = analysis.analyse(small_models.folder("llama"), analysis.Options())
    assert found["idle"] == [
        {
            "module": "model.layers.0.mlp",
            "class": "LlamaMLP",
            "parameters": ["forgotten"],
            "count": 5,
            "bytes": 5 * 2 * 7,
            "note": "the module runs and does not read them",
        }
    ]
    assert found["conservation"]["exact"]


def test_a_weight_that_a_boundary_loses_is_not_idle(monkeypatch):
    """An attention boundary that drops its sinks: the model's own attention reads them, so the sum shows the loss."""

    def forgetful(*args, s_aux=None, **kwargs):  # noqa: ARG001 - what it loses
        return attention(*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "trace_model", forgetful)
    found = analysis.analyse(small_models.folder("gpt_oss"), analysis.Options())
    weights = found["conservation"]["weights"]
    assert found["idle"] == []
    assert weights["idle"] == 0
    assert weights["model"] > weights["ops"] + weights["primitives"]
    assert not found["conservation"]["exact"]


def test_a_weight_that_a_matcher_loses_is_not_idle(monkeypatch):
    """A claim that forgets its parameter: it was read, so the sum shows the loss."""

    def forgetful(flow):
        found = match(flow)
        next(found.of("gemm")).parameters = []
        return found

    monkeypatch.setattr(analysis, "match", forgetful)
    found = analysis.report(small_models.traced("llama"), analysis.Options(lowering="eager"))
    weights = found["conservation"]["weights"]
    assert found["idle"] == []
    assert weights["model"] - weights["ops"] == 5 * 2 * 48 * 60
    assert not found["conservation"]["exact"]


def test_a_parameter_that_one_layer_alone_reads_forbids_pruning(monkeypatch):
    """A representative that never reads what another layer reads does not stand for it."""

    class Picky(nn.Module):
        def forward(self, x, use):
            return x * self.scale if use else x

    def build(*args, **kwargs):
        model = build_model(*args, **kwargs)
        for i, layer in enumerate(model.model.layers):
            layer.mlp.picky = Picky()
            layer.mlp.picky.scale = nn.Parameter(
                torch.empty(48, device="meta", dtype=torch.bfloat16)
            )
            layer.mlp.where = Lookup(i == 2)
            layer.mlp.forward = functools.partial(run, layer.mlp, layer.mlp.forward)
        return model

    def run(mlp, original, x):
        return original(mlp.picky(x, mlp.where.value))

    class Lookup:
        def __init__(self, value):
            self.value = value

    monkeypatch.setattr(analysis, "build_model", build)
    found = analysis.analyse(small_models.folder("llama"), analysis.Options())
    assert found["full_depth"]
    assert any("do not read model.layers.0.mlp.picky.scale" in note for note in found["notes"])
    assert found["conservation"]["exact"]
    assert sum(entry["bytes"] for entry in found["idle"]) == 4 * 2 * 48


def test_a_model_that_does_not_run_whole_has_nothing_idle(monkeypatch):
    """Without the second witness, what the recording did not see stays a loss."""

    def fail(*_args, **_kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(idle, "_run", fail)
    found = analysis.analyse(small_models.write(DECODER_ALONE), analysis.Options())
    assert found["full_depth"]
    assert found["idle"] == []
    assert not found["conservation"]["exact"]
