"""Sparse attention over pools of keys that masks of padding lay out: the functions, and a run of the whole model."""

from __future__ import annotations

import importlib

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from oplib.errors import UnsupportedModelError
from oplib.oplist import OpList
from oplib.symbols import B, P, S, evaluate, parse_expr
from tests.tracer import real, small_models
from tests.tracer.older import NOT_YET
from tests.tracer.toy import claims
from tracer import analysis, boundaries
from tracer.retrace import retrace, unseen

NAME = "glm5_next"
if NAME not in CONFIG_MAPPING or NAME in NOT_YET:
    pytest.skip(f"this transformers has no {NAME}", allow_module_level=True)
MODELING = importlib.import_module("transformers.models.glm5_next.modeling_glm5_next")
TEXT = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 72,
    "moe_intermediate_size": 22,
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "indexed_attention", "indexed_attention"],
    "indexer_types": ["full", "full", "shared"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 14,
    "v_head_dim": 18,
    "index_topk": 8,
    "index_head_dim": 16,
    "index_n_heads": 5,
    "index_kpool": 4,
    "linear_head_dim": 8,
    "linear_num_heads": 5,
    "hc_mult": 2,
    "hc_sinkhorn_iters": 2,
    "pad_token_id": 0,
}
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 16,
    "out_hidden_size": 48,
}
small_models.BROUGHT[NAME] = {
    "model_type": NAME,
    "architectures": ["Glm5NextForConditionalGeneration"],
    "text_config": TEXT,
    "vision_config": VISION,
}


@pytest.fixture
def indexer():
    torch.manual_seed(1)
    config = MODELING.Glm5NextTextConfig(**TEXT)
    made = MODELING.Glm5NextTextIndexer(config, layer_idx=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize(("cached", "new"), [(0, 1), (0, 3), (0, 4), (0, 23), (13, 1), (15, 6)])
@torch.no_grad()
def test_the_functions_compute_what_the_model_computes(indexer, cached, new):
    """Pools, visible tokens and the tail of sequences without padding, within a pool, at its end and beyond."""
    tokens = cached + new
    packed = torch.cat([torch.randn(2, tokens, 32), torch.ones(2, tokens, 1)], dim=-1)
    chosen = torch.zeros(2, new, 3, dtype=torch.long)
    valid = torch.ones(2, tokens, dtype=torch.bool)

    def run():
        pools = indexer.get_pooled_states(packed_states=packed)
        visible = indexer.get_visible_tokens(valid_keys=valid, q_length=new, current_length=tokens)
        return (*pools, visible, indexer.append_visible_tail(chosen, visible, valid))

    expected = run()
    with boundaries.bind(indexer):
        found = run()
    assert expected[0].shape[1] == tokens // 4
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("phase", ["context", "generation"])
def test_the_ops(phase):
    """One indexer, two attentions to its pools, whose latent has no rotary part; no primitive."""
    found = small_models.matched(NAME, phase)
    assert not found.primitives
    dims = {"b": B, "s": 1 if phase == "generation" else S, "p": P}
    (indexer,) = claims(found, "sparse_indexer")
    names = ("num_heads", "head_dim", "topk", "ratio", "weighted_sum")
    assert [indexer.params[n] for n in names] == [5, 16, 2, 4, "product"]
    cores = claims(found, "sparse_attention")
    names = ("topk", "block", "tail", "num_heads", "kv_lora_rank", "qk_nope_head_dim")
    for core in cores:
        assert [core.params[n] for n in names] == [8, 4, True, 3, 20, 14]
        assert (core.params["qk_rope_head_dim"], core.params["v_head_dim"]) == (0, 18)
    assert [c.params["index_source"] for c in cores] == ["indexer", "shared"]
    assert indexer.dims == cores[0].dims == cores[1].dims == dims


@pytest.mark.parametrize("lowering", ["eager", "serving"])
def test_report_is_exact(lowering):
    """Weights, FLOPs and nodes add up."""
    found = small_models.report(NAME, lowering)
    assert found["conservation"]["exact"]
    assert found["situation"] != "S3"


def test_a_trace_holds_at_other_workloads():
    """Both phases, two workloads each."""
    found = small_models.traced(NAME)
    for trace in found.traces.values():
        for workload in unseen(trace):
            assert retrace(found.model, found.capture, trace, workload) == []


@pytest.mark.slow
def test_a_run_does_what_the_list_says():
    """FLOPs and cache of the whole model on the CPU, at lengths within a pool, at its end, over one and over many."""
    config = MODELING.Glm5NextConfig(
        **{k: v for k, v in small_models.BROUGHT[NAME].items() if k.endswith("config")}
    )
    torch.manual_seed(0)
    model = MODELING.Glm5NextForConditionalGeneration._from_config(
        config, dtype=torch.bfloat16, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    text = small_models.report(NAME, "eager")
    language = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    assert text["weight_bytes"] == sum(p.numel() * p.itemsize for p in language)
    cache = parse_expr(text["kv_cache"]["expression"])
    lists = OpList.from_json(text["op_list"]).phases
    for b, prompt, more in ((1, 3, 1), (2, 4, 1), (1, 37, 3), (2, 20, 13), (3, 11, 1)):
        first, second = real.passes(model, b, prompt, more)
        phase = "generation" if more == 1 else "context"
        for ran, ops, s, p in ((first, "context", prompt, 0), (second, phase, more, prompt)):
            counted = (o for o in lists[ops] if o.kind.counted)
            assert ran.flops == sum(o.count * o.flops_at(b=b, s=s, p=p) for o in counted), (b, s, p)
            assert ran.cache_bytes == evaluate(cache, b=b, p=s + p), (b, s, p)


@pytest.mark.slow
def test_without_the_functions_it_fails_before_the_whole_depth(monkeypatch):
    """How many pools a mask keeps is a value of the data: an error that names the size, and no second try."""
    monkeypatch.delitem(boundaries._METHODS, ("get_pooled_states", "packed_states"))
    monkeypatch.setattr(analysis, "_trace_otherwise", lambda *_a, **_k: pytest.fail("whole depth"))
    with pytest.raises(UnsupportedModelError, match="no known function of b, s and p"):
        analysis.trace_model(small_models.folder(NAME))
