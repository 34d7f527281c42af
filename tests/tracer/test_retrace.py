"""Symbolic evaluation equals re-tracing: every size of a trace, evaluated at workloads it has not seen."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from oplib.symbols import P, S
from tests.tracer import shrunk, small_models, test_passes, toy
from tests.tracer.test_published import FOREIGN, PUBLISHED
from tests.tracer.test_published import NAMES as PUBLISHED_NAMES
from tracer import analysis
from tracer.retrace import retrace, unseen
from tracer.sizes import BLOCK, LONG, LONG_AGAIN, LONG_ODD, SHORT
from tracer.trace import PHASES, capture, trace

FAST = ("deepseek_v3", "gemma3", "nemotron_h", "xlstm")
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {"ffn_dim": 112, "attention_heads": 6, "vocab_size": 173, **_SPECIAL}
#: Models that run in another setting than the one their cache is captured in, or change in their first pass.
OTHERWISE = {
    "table of real values": {"model_type": "xglm", "d_model": 48, "num_layers": 3, **_TEXT},
    "text of another model": {
        "model_type": "kosmos-2",
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "text_config": {"embed_dim": 48, "layers": 3, **_TEXT},
        "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
                          "num_hidden_layers": 1},
    },
    "codebooks": test_passes.CONFIGS["codebooks"],
    "one token at a time": test_passes.CONFIGS["one token at a time"],
    "one token at a time, and values": {
        "model_type": "prophetnet", "architectures": ["ProphetNetForCausalLM"], "is_decoder": True,
        "add_cross_attention": False, "hidden_size": 48, "num_decoder_layers": 3, "num_decoder_attention_heads": 6,
        "decoder_ffn_dim": 112, "vocab_size": 173, "max_position_embeddings": 128, **_SPECIAL,
    },
    "modules that change": {
        "model_type": "big_bird", "is_decoder": True, "block_size": 8, "max_position_embeddings": 256,
        "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6,
        "vocab_size": 173, **_SPECIAL,
    },
}  # fmt: skip
QUICK = ("table of real values", "codebooks")


@functools.cache
def small(model_type: str) -> analysis.Traced:
    return analysis.trace_model(small_models.write(shrunk.shrunk(model_type), model_type))


def types() -> list:
    return [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in shrunk.AVAILABLE]


def differences(found: analysis.Traced) -> list[str]:
    return [
        difference
        for one in found.traces.values()
        for workload in unseen(one)
        for difference in retrace(found.model, found.capture, one, workload)
    ]


@pytest.mark.parametrize("model_type", types())
def test_a_trace_holds_at_other_workloads(model_type):
    """Both phases, two workloads each: the same operators, and the sizes that the expressions say."""
    assert differences(small(model_type)) == []


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OTHERWISE]
)
def test_a_trace_holds_in_its_own_setting(name):
    """A phase that runs over other tensors, fresh tokens or all tokens again is compared with a pass that does."""
    found = analysis.trace_model(small_models.write(OTHERWISE[name]))
    settings = {one.setting for one in found.traces.values()}
    assert found.capture.replaced or settings != {found.capture.setting}
    assert differences(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PUBLISHED_NAMES if n not in FOREIGN])
def test_a_published_model_holds_at_other_workloads(name):
    """The same for the published configs."""
    assert differences(analysis.trace_model(str(PUBLISHED / name))) == []


@pytest.mark.parametrize("phase", PHASES)
def test_the_workloads_are_new(phase):
    """None of them is one that a trace is read off or confirmed at, and generation has one new token."""
    for branches, whole in ((False, False), (True, False), (True, True)):
        one = dataclasses.replace(
            small("gemma3").traces[phase], branches=branches, whole_blocks=whole
        )
        for workload in unseen(one):
            assert not whole or workload["p"] % BLOCK == 0
            assert all(workload["p"] != seen["p"] for seen in (LONG, LONG_AGAIN, LONG_ODD, SHORT))
            assert (workload["s"] == 1) == (phase == "generation")


def test_a_wrong_expression_is_found():
    """A size that is off by one shows, with the node, both sizes and the workload."""
    found = small("gemma3")
    right = found.traces["context"]

    def off_by_one(size):
        return right.expr(size) + (1 if right.expr(size).has(P) else 0)

    wrong = dataclasses.replace(right, expr=off_by_one)
    (first, *_) = retrace(found.model, found.capture, wrong, unseen(wrong)[0])
    assert "+ 1" in first
    assert str(dict(unseen(wrong)[0])) in first


def test_another_operator_is_found():
    """A model that takes another branch at a workload is not said to hold there."""
    model = toy.Toy(lambda _m, x: x.exp() if x.shape[1] in (24, 128 * 103) else x.sin()).eval()
    captured = capture(model)
    one = trace(model, captured, "context")
    assert one.expr(LONG["s"]) == S
    (difference,) = retrace(model, captured, one, {"b": 3, "s": 77, "p": 345})
    assert "another operator" in difference


def test_another_dtype_is_another_branch():
    """A dtype that only whole blocks have: the trace is of those, says so, and does not hold elsewhere."""

    def body(_model, x):
        return x.to(torch.float32 if x.shape[1] % BLOCK else torch.float16)

    model = toy.Toy(body).eval()
    captured = capture(model)
    one = trace(model, captured, "context")
    assert one.branches
    assert one.whole_blocks
    assert not trace(model, captured, "generation").branches
    assert [d for w in unseen(one) for d in retrace(model, captured, one, w)] == []
    (difference,) = retrace(model, captured, one, {"b": 3, "s": 77, "p": 345})
    assert "torch.float32 is not torch.float16" in difference


def test_the_longest_pass_of_a_branch_is_found():
    """Where longer passes take another branch than the traced one, the trace says from which length on."""

    def body(_model, x):
        return x.exp() if x.shape[1] > 20_000 or x.shape[1] < 100 else x.sin()

    model = toy.Toy(body).eval()
    captured = capture(model)
    one = trace(model, captured, "context")
    assert one.longest == 20_000 // BLOCK * BLOCK
    assert one.guards == (f"s <= {one.longest}",)
    assert max(workload["s"] for workload in unseen(one)) == one.longest
    assert [d for w in unseen(one) for d in retrace(model, captured, one, w)] == []
    assert trace(model, captured, "generation").longest is None


def test_a_table_of_real_values_is_no_branch():
    """A longer pass makes a table of more values than the tracer lets it: that is no limit of the model."""

    def body(_model, x):
        table = torch.arange(60 * x.shape[1]).unflatten(0, (-1, 60)).cos()
        turned = x.exp() if x.shape[1] < 100 else x.sin()
        return turned * table.sum(-1, keepdim=True).to(x.device, x.dtype)

    model = toy.Toy(body).eval()
    captured = capture(model)
    one = trace(model, captured, "context")
    assert one.branches
    assert one.longest is None
    assert one.setting.tensors == "fake"
    assert [d for w in unseen(one) for d in retrace(model, captured, one, w)] == []
