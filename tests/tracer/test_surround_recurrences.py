"""Kernels around a recurrence and a convolution over a state, and near misses that stay as they are."""

from __future__ import annotations

import inspect

import pytest
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeGatedDeltaNet
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from oplib.kernels import registry
from oplib.symbols import B, S
from tests.tracer import small_models, toy
from tests.tracer.test_rewrite import AT, PHASES, RULES, before_and_after, flops, weight
from tests.tracer.toy import linear
from tracer.boundaries import gated_delta_rule as boundary
from tracer.rewrite.surround_recurrences import OPERATORS

RULE = "surround_recurrences"
FIRST = ("append_cache_in_place", "fuse_pointwise")
#: Models that repeat queries and keys for the delta rule themselves, as some versions of transformers' have it.
REPEATING = {
    name
    for name, layer in {
        "qwen3_next": Qwen3NextGatedDeltaNet,
        "qwen3_5_moe": Qwen3_5MoeGatedDeltaNet,
    }.items()
    if "repeat_interleave" in inspect.getsource(layer.forward)
}


def added(name: str, phase: str, b: int = 3) -> dict[str, list[tuple[str, int, int]]]:
    """Of each op that the rule makes: functions, bytes read and written; by the last part of its name."""
    _, after, fired = before_and_after(name, phase, RULE, *FIRST)
    made = [o for o in after if RULE in o.rewrites]
    assert len(made) == fired
    found: dict[str, list[tuple[str, int, int]]] = {}
    for op in made:
        assert op.op == "pointwise"
        dims = op.dims_at(b=b, s=1 if phase == "generation" else 41, p=23)
        found.setdefault(op.name.rpartition(".")[2], []).append(
            (str(op.params["functions"]), dims["read"], dims["written"])
        )
    return found


def test_a_step_of_mamba_readies_its_decay_and_moves_its_window_on():
    """Nemotron: 8 decays, stored in two bytes and made in four; 8 * 12 + 2 * 2 * 18 = 168 channels of 3 inputs."""
    window, new = 3 * 168 * 3 * 2, 3 * 168 * 2
    assert added("nemotron_h", "generation") == {
        "mixer": [("exp+neg", 8 * 2, 8 * 4)],
        "cat": [("cat", window + new, window)],
        "copy": [("copy", window, window)],
    }


def test_a_prompt_leaves_its_last_inputs_and_its_state():
    """The state of Nemotron's scan: 8 heads of 12 with 18 values each, in float32."""
    window, state = 3 * 168 * 3 * 2, 3 * 8 * 12 * 18 * 4
    assert added("nemotron_h", "context") == {
        "mixer": [("exp+neg", 8 * 2, 8 * 4)],
        "copy": [("copy", window, window), ("copy", state, state)],
    }


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5_moe", "kimi_linear"])
def test_the_step_of_a_delta_rule_writes_its_state_itself(name):
    """Two kernels for each convolution and none for the state, also where the model casts it (Kimi Linear)."""
    layers = 2 if name == "kimi_linear" else 1  # layers that stand for all
    repeats = {"repeat_interleave": 2} if name in REPEATING else {}
    assert {what: len(made) for what, made in added(name, "generation").items()} == {
        "cat": layers, "copy": layers, **repeats,
    }  # fmt: skip
    assert {what: len(made) for what, made in added(name, "context").items()} == {
        "copy": 2 * layers, **repeats,
    }  # fmt: skip


def test_a_scan_that_is_compiled_with_its_surroundings_has_none():
    """Near miss: Mamba 1 is no operator of a compiled run; its convolution is one."""
    assert {what: len(made) for what, made in added("jamba", "generation").items()} == {
        "cat": 2, "copy": 2,
    }  # fmt: skip
    assert {what: len(made) for what, made in added("jamba", "context").items()} == {"copy": 2}


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("phase", PHASES)
def test_attention_is_left_alone(name, phase):
    """Near miss: cached keys are rows that are appended."""
    assert before_and_after(name, phase, RULE, *FIRST)[2] == 0


@pytest.mark.parametrize("name", ["mamba2", "nemotron_h", "qwen3_next", "kimi_linear", "jamba"])
@pytest.mark.parametrize("phase", PHASES)
def test_weights_and_work_stay(name, phase):
    before, after, fired = before_and_after(name, phase, RULE, *FIRST)
    assert fired
    assert weight(after) == weight(before)
    for at in AT[phase]:
        assert flops(after, at) == flops(before, at)


def test_heads_repeated_for_a_delta_rule_are_two_kernels():
    """Queries and keys of 3 heads for 6 values': each repeated apart, 4 features in two bytes."""

    def body(model, x):
        parts = model.q(x), model.k(x), model.v(x)
        query, key, value = (part.unflatten(-1, (-1, 4)) for part in parts)
        query, key = (part.repeat_interleave(2, dim=2) for part in (query, key))
        gate = value.sum(-1)
        return boundary.chunked(query, key, value, gate, gate)[0].flatten(2)

    found = toy.matched(body, q=linear(12), k=linear(12), v=linear(24))
    assert RULES[RULE].apply(found) == 2
    sizes = [c.dims for c in found.of("pointwise") if RULE in c.rewrites]
    at = {B: 3, S: 41}
    moved = [tuple(dims[way].subs(at) for way in ("read", "written")) for dims in sizes]
    assert moved == [(3 * 41 * 12 * 2, 3 * 41 * 24 * 2)] * 2


@pytest.mark.parametrize("phase", PHASES)
def test_ranks_move_their_own_channels(phase):
    """With the heads split in 2, each rank has its part of the window and of the state."""
    ops = small_models.report("nemotron_h", "torch")["op_list"]["phases"][phase]
    moved = [o for o in ops if o["rewrites"] == [RULE] and o["params"]["functions"] != "exp+neg"]
    assert len(moved) == 2
    for op in moved:
        assert op["parallel"] == "split"
        assert op["shards"] == {way: {"2": op["dims"][way]} for way in ("read", "written")}


def test_only_what_a_slot_binds_is_one_operator():
    assert all(registry.slot(kind).bind for kind in (*OPERATORS, "causal_conv1d"))
    assert not any(registry.slot(kind).bind for kind in ("mamba1", "linear_attention", "rg_lru"))
