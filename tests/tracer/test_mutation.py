"""A small supported model with one unknown step in its layer: found, placed, and gone again with the step."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from transformers.models.llama import modeling_llama

from tests.tracer import small_models
from tracer import analysis

_LIBRARY = torch.library.Library("trace_model_tests", "DEF")
_LIBRARY.define("gate(Tensor x) -> Tensor")
torch.library.register_fake("trace_model_tests::gate", torch.empty_like, lib=_LIBRARY)


class Solve(torch.autograd.Function):
    """A function of somebody's own: traced through to the operator it calls."""

    @staticmethod
    def forward(_ctx, x):
        return torch.fft.fft(x.float()).real.to(x.dtype)  # autograd function


class Fourier(modeling_llama.LlamaDecoderLayer):
    """Token mixing by a Fourier transform."""

    def forward(self, hidden_states, *args, **kwargs):
        mixed = torch.fft.rfft(hidden_states.float(), dim=-1).abs()  # fourier
        return super().forward(
            hidden_states + mixed.mean(-1, keepdim=True).to(hidden_states.dtype), *args, **kwargs
        )


class CustomOperator(modeling_llama.LlamaDecoderLayer):
    """An operator that a library registers."""

    def forward(self, hidden_states, *args, **kwargs):
        gated = torch.ops.trace_model_tests.gate(hidden_states)  # custom operator
        return super().forward(gated, *args, **kwargs)


class CustomFunction(modeling_llama.LlamaDecoderLayer):
    """A custom autograd function."""

    def forward(self, hidden_states, *args, **kwargs):
        return super().forward(Solve.apply(hidden_states), *args, **kwargs)


class Sorted(modeling_llama.LlamaDecoderLayer):
    """Attention to tokens in the order of a learned key."""

    def forward(self, hidden_states, *args, **kwargs):
        order = hidden_states[..., 0].argsort(dim=-1)  # sort
        return super().forward(
            hidden_states + hidden_states.gather(1, order[..., None].expand_as(hidden_states)),
            *args,
            **kwargs,
        )


class Cumulative(modeling_llama.LlamaDecoderLayer):
    """A gate that sums over the tokens before."""

    def forward(self, hidden_states, *args, **kwargs):
        gate = hidden_states.cumsum(1).sigmoid()  # cumulative
        return super().forward(hidden_states * gate, *args, **kwargs)


#: Layer -> (primitive, the comment on its line).
MUTANTS = {
    Fourier: ("aten.fft_rfft", "# fourier"),
    CustomOperator: ("trace_model_tests.gate", "# custom operator"),
    CustomFunction: ("aten.fft_fft", "# autograd function"),
    Sorted: ("aten.argsort", "# sort"),
    Cumulative: ("aten.cumsum", "# cumulative"),
}


class Unchanged(modeling_llama.LlamaDecoderLayer):
    """The same detour without an unknown step."""

    def forward(self, hidden_states, *args, **kwargs):
        return super().forward(hidden_states * hidden_states.sigmoid(), *args, **kwargs)


def line_of(comment: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if line.endswith(comment)]
    return number


def report(layer: type, monkeypatch) -> dict:
    monkeypatch.setattr(modeling_llama, "LlamaDecoderLayer", layer)
    return analysis.analyse(small_models.folder("llama"), analysis.Options(lowering="serving"))


@pytest.mark.parametrize("layer", list(MUTANTS), ids=lambda c: c.__name__)
def test_an_unknown_step_is_found_and_placed(layer, monkeypatch):
    """S3, in both phases, with file, line, line text, module, count, work and bound."""
    primitive, comment = MUTANTS[layer]
    found = report(layer, monkeypatch)
    assert found["situation"] == "S3"
    entries = [e for e in found["unsupported"] if e["primitive"] == primitive]
    assert {e["phase"] for e in entries} == {"context", "generation"}
    for entry in entries:
        assert entry["source"] == f"{Path(__file__).name}:{line_of(comment)}"
        assert entry["file"] == "tests/tracer/test_mutation.py"
        assert entry["line_text"].endswith(comment)
        assert entry["where"] == "model.layers.0"
        assert entry["module_class"] == layer.__name__
        assert entry["count"] == 5
        assert entry["bound_ms"] > 0
        assert entry["flops"] != 0
        assert primitive in entry["reason"]
    assert [k["class"] for k in found["layers"]] == [layer.__name__]
    assert [k["count"] for k in found["layers"]] == [5]


@pytest.mark.parametrize("layer", list(MUTANTS), ids=lambda c: c.__name__)
def test_the_rest_of_the_model_is_still_priced(layer, monkeypatch):
    """Conservation holds around the unknown step, and every known op is still there."""
    found = report(layer, monkeypatch)
    assert found["conservation"]["exact"]
    names = {o["name"] for o in found["op_list"]["phases"]["context"]}
    assert {
        "self_attn.qkv_proj",
        "self_attn.attention",
        "mlp.gate_up_proj",
        "mlp.down_proj",
        "lm_head",
    } <= names


def test_without_the_step_it_is_supported(monkeypatch):
    """The same layer class with known operators only."""
    found = report(Unchanged, monkeypatch)
    assert found["situation"] in ("S1", "S2", "S1-or-S2")
    assert found["unsupported"] == []
    assert found["conservation"]["exact"]
    assert inspect.getsourcefile(Unchanged) == __file__
