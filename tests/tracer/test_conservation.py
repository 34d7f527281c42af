"""Nothing counted twice, nothing lost: against full models of transformers' own build, and under seeded faults."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from oplib.errors import UnsupportedModelError
from oplib.lowerings import LOWERINGS
from tests.tracer import small_models
from tests.tracer.real import aside
from tests.tracer.small_models import FAST, NAMES, SMALL, WITHOUT_SCANS, each
from tracer import analysis, assemble, rewrite
from tracer.build import quiet_transformers
from tracer.match import matchers

B, S, SPLIT = 2, 48, 20
PHASES = ("context", "generation")


@functools.cache
def full(name: str) -> nn.Module:
    """The model at its full depth, built and run by transformers alone."""
    config = {k: v for k, v in SMALL[name].items() if k != "quantization_config"}
    model_config = AutoConfig.for_model(**config)
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            model_config, dtype=torch.bfloat16, attn_implementation="eager",
            **({"experts_implementation": "batched_mm"} if "xperts" in str(config) else {}),
        )  # fmt: skip
    return model.eval()


def count(name: str, *lengths: int) -> list[int]:
    """FLOPs of passes over new tokens of these lengths, one after the other over one cache."""
    model, cache, found = full(name), None, []
    for length in lengths:
        counter = FlopCounterMode(display=False)
        ids = torch.zeros(B, length, dtype=torch.long, device="meta")
        with counter, aside(model, counter) as inside:
            cache = small_models.step(model, ids, cache)
        found.append(counter.get_total_flops() - inside[0])
    return found


@functools.cache
def eager(name: str) -> dict:
    """The op list as written, per phase."""
    return {
        p: assemble.ops(small_models.matched(name, p), small_models.weights(name)) for p in PHASES
    }


def listed(name: str, phase: str, s: int, p: int) -> int:
    """FLOPs of the op list as written, without kinds whose kernel function the counter is kept out of."""
    return sum(
        o.count * o.flops_at(b=B, s=s, p=p) for o in eager(name)[phase] if o.kind.counted
    )  # fmt: skip


@pytest.mark.parametrize("name", each())
def test_report_is_exact(name):
    """Weights, FLOPs and nodes add up in the report, and nothing is a primitive."""
    found = small_models.report(name)
    assert found["conservation"]["exact"]
    assert found["situation"] == "S1-or-S2"
    assert found["conservation"]["nodes"]["primitive"] == 0
    assert not found["full_depth"]


@pytest.mark.slow
def test_eager_work_on_booleans_has_a_bound():
    """As written, the experts' mask of Kimi Linear is an op of its own; it has a bound like any other."""
    assert small_models.report("kimi_linear", "eager")["conservation"]["exact"]


@pytest.mark.parametrize("name", each())
def test_flops_are_those_of_the_full_model(name):
    """A fresh prompt, and one step after it, at full depth without any of our build, boundaries or pruning."""
    context, generation = count(name, S, 1)
    assert listed(name, "context", S, 0) == context
    assert listed(name, "generation", 1, S) == generation


@pytest.mark.parametrize("name", each(WITHOUT_SCANS))
def test_flops_of_a_prompt_in_two_parts(name):
    """New tokens over a cache that holds some already: p is neither 0 nor s."""
    first, second = count(name, SPLIT, S - SPLIT)
    assert listed(name, "context", SPLIT, 0) == first
    assert listed(name, "context", S - SPLIT, SPLIT) == second


@pytest.mark.parametrize("name", each(sorted(set(NAMES) - {"mixtral_fp8"})))
def test_weights_are_the_unique_parameters(name):
    """Under every lowering and in both phases: unique parameters of the full model, two bytes each."""
    expected = sum(q.numel() * q.dtype.itemsize for q in full(name).parameters())
    weights = small_models.weights(name)
    assert weights.total() == expected
    for phase in PHASES:
        for lowering in LOWERINGS:
            found = rewrite.lower(small_models.matched(name, phase), lowering)
            assert sum(o.get_weights() for o in assemble.ops(found, weights)) == expected, (
                phase,
                lowering,
            )


def test_weights_of_a_quantised_model():
    """fp8 in blocks of 128 x 128 with a float32 scale each: linear layers of the blocks; the rest in bf16.

    Per layer: q 60x256, k and v 20x256, o 256x60 at one byte with 2, 2, 2, 2 blocks; 5 experts of 768x256 (12 blocks)
    and 256x384 (6 blocks); router 5x256 and two norms in bf16. Outside: two tables of 173x256 and a norm.
    """
    attention = 60 * 256 + 20 * 256 * 2 + 256 * 60 + 4 * (2 + 2 + 2 + 2)
    experts = 5 * (768 * 256 + 256 * 384 + 4 * (12 + 6))
    router = 2 * 5 * 256
    expected = 5 * (attention + experts + router + 2 * 2 * 256) + 2 * (2 * 173 * 256 + 256)
    assert small_models.report("mixtral_fp8")["weight_bytes"] == expected
    ops = eager("mixtral_fp8")["context"]
    assert sum(o.get_weights() for o in ops) == expected
    assert {o.params["dtype"] for o in ops if o.op == "moe"} == {"fp8_block"}


def test_tied_weights_count_once():
    """The head of a tied model weighs nothing and says so."""
    head = [o for o in eager("llama_tied")["context"] if o.op == "gemm" and o.params["n"] == 173]
    assert [(o.weight_bytes, o.params["tied"]) for o in head] == [(0, True)]


@pytest.mark.parametrize(
    ("name", "layers", "top_k", "hidden", "inter", "gated"),
    [
        ("qwen3_moe", 4, 4, 48, 30, True),
        ("deepseek_v3", 3, 3, 48, 26, True),
        ("gpt_oss", 5, 2, 48, 112, True),
        ("nemotron_h", 2, 3, 48, 38, False),
        ("mixtral_fp8", 5, 2, 256, 384, True),
    ],
)
def test_experts_by_hand(name, layers, top_k, hidden, inter, gated):
    """2 · tokens · top_k · hidden · intermediate · (3 or 2), in every MoE layer."""
    for phase, tokens in (("context", 2 * 48), ("generation", 2)):
        found = sum(
            o.count * o.flops_at(b=2, s=48 if phase == "context" else 1, p=0)
            for o in eager(name)[phase]
            if o.op == "moe"
        )
        assert found == layers * 2 * tokens * top_k * hidden * inter * (3 if gated else 2)


@pytest.mark.parametrize("name", each())
@pytest.mark.parametrize("phase", PHASES)
def test_every_node_is_in_one_place(name, phase):
    """Under every lowering no node is in two claims, or in none."""
    for lowering in LOWERINGS:
        found = rewrite.lower(small_models.matched(name, phase), lowering)
        places = (
            [n for c in found.claims for n in c.nodes] + list(found.free) + list(found.primitives)
        )
        assert len(places) == len(set(places)), lowering
        assert set(places) == set(found.flow.nodes), lowering


#: A model in which a matcher takes nodes that no other can.
MATTERS = {
    "attention": "llama",
    "bmm": "llama4",
    "causal_conv1d": "nemotron_h",
    "dense_experts_routing": "llama4",
    "embedding": "llama",
    "gated_delta_rule": "qwen3_next",
    "gemm": "llama",
    "mamba1": "jamba",
    "mamba2": "nemotron_h",
    "moe": "qwen3_moe",
    "pointwise": "llama",
    "sparse_indexer": "deepseek_v32",
}
#: Matchers that no small model needs: test_match.py, test_recurrences.py, test_written_attention.py,
#: test_compressed_attention.py and test_block_selection.py show what they take.
BY_TOY_ONLY = {
    "block_selection",
    "compressed_attention",
    "conv1d",
    "einsum",
    "grouped_gemm",
    "grouped_routing",
    "linear_attention",
    "mlstm",
    "rg_lru",
    "sdpa",
    "wkv",
    "written_attention",
}


SLOW_MODELS = {m for m, name in MATTERS.items() if name not in FAST}


def seeded() -> list:
    """Each matcher as a test parameter: slow where its model is."""
    slow = [pytest.mark.slow]
    return [pytest.param(m, marks=slow if m in SLOW_MODELS else []) for m in sorted(MATTERS)]


def test_every_matcher_has_a_seeded_fault():
    """A new matcher is left out once too."""
    assert set(MATTERS) | BY_TOY_ONLY == set(matchers())


@pytest.mark.parametrize("without", seeded())
@pytest.mark.parametrize("phase", PHASES)
def test_a_missing_matcher_loses_no_node(without, phase):
    """Each node it claimed is a primitive, or in another matcher's claim; none vanishes."""
    name = MATTERS[without]
    whole = small_models.matched(name, phase)
    found = small_models.matched(name, phase, without=(without,))
    places = [n for c in found.claims for n in c.nodes] + list(found.free) + list(found.primitives)
    assert len(places) == len(set(places))
    assert set(places) == set(found.flow.nodes) == set(whole.flow.nodes)
    assert found.primitives
    assert all(reason for reason in found.primitives.values())
    assert set(found.free) == set(whole.free)


@functools.cache
def report_without(matcher: str) -> dict:
    """The report of the model in which a matcher matters, without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "match", functools.partial(analysis.match, without=(matcher,)))
        return analysis.report(
            small_models.traced(MATTERS[matcher]), analysis.Options(lowering="eager")
        )


@pytest.mark.parametrize("without", seeded())
def test_a_missing_matcher_shows_in_the_report(without):
    """The situation is S3; each primitive has a place, a reason and a price."""
    found = report_without(without)
    nodes = found["conservation"]["nodes"]
    assert found["situation"] == "S3"
    assert nodes["primitive"] == len(found["unsupported"]) > 0
    assert nodes["total"] == sum(nodes[k] for k in ("ops", "pointwise", "free", "primitive"))
    for entry in found["unsupported"]:
        assert entry["reason"]
        assert entry["source"]
        assert entry["flops"] != 0
        assert entry["bytes"] != 0


@pytest.mark.parametrize("without", seeded())
def test_weights_add_up_without_a_matcher(without):
    """What an op held before, a primitive holds now: no byte twice."""
    held = report_without(without)["conservation"]["weights"]
    assert held["model"] == held["ops"] + held["primitives"]


def test_a_missing_gemm_breaks_the_flop_sum():
    """Conservation is a test, not a formality: products that no op claims are a deficit of exactly their FLOPs."""
    held = report_without("gemm")["conservation"]
    lost = sum(
        o.count * o.flops_at(b=at["b"], s=at["s"], p=at["p"])
        for phase, seen in held["flops"]["phases"].items()
        for at in [seen["workload"]]
        for o in eager("llama")[phase]
        if o.op == "gemm"
    )
    assert held["flops"]["counter"] - held["flops"]["ops"] == lost
    assert held["flops"]["primitives"] in (0, lost)
    assert held["exact"] == (held["flops"]["primitives"] == lost)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deepseek_v3", {"num_attention_heads": 12, "v_head_dim": 3}),
        pytest.param("mixtral_fp8", {"sliding_window": 0}, marks=pytest.mark.slow),
    ],
)
def test_a_model_whose_own_attention_does_not_run_is_an_error_of_its_config(name, changes):
    """Our attention takes what the model's refuses: heads that no group divides, a window of nothing."""
    path = small_models.write({**SMALL[name], **changes})
    with pytest.raises(UnsupportedModelError, match="does not run with its own attention written"):
        analysis.analyse(path, analysis.Options())
