"""The parity page compares by kind and shape, and every cause follows from the two lists."""

from __future__ import annotations

from typing import Any

import pytest
from parity_causes import explain
from parity_lists import Line, ours, reference
from parity_page import Model, Weights, made_with, render
from parity_sites import GRANULARITY, OURS, REFERENCE, UNEXPLAINED, Cause, compare, ranges

LAYERS = {"l.0": [0, 1, 2], "l.3": list(range(3, 61))}
MLA = {"kv_lora_rank": 512, "nope": 128, "rope": 64, "v_head_dim": 128}
# A line by its fields, as keyword arguments of `line`.
Fields = dict[str, Any]


def line(kind: str, count: int, *, phase: str = "context", **more: Any) -> Line:
    """A line; what is no field of Line is its shape."""
    fields = {name: more.pop(name) for name in list(more) if name in Line.__dataclass_fields__}
    fields.setdefault("name", kind)
    return Line(phase=phase, kind=kind, count=count, shape=tuple(more.items()), **fields)


def causes(mine: list[Line], theirs: list[Line], layers: Any = None) -> list[tuple[str, Cause]]:
    """The kind and the cause of each difference."""
    return [(s.kind, c) for s, c in explain(compare(mine, theirs), layers or LAYERS)]


def only_cause(mine: list[Line], theirs: list[Line], layers: Any = None) -> Cause:
    """The one cause that all differences share."""
    (found,) = {cause for _, cause in causes(mine, theirs, layers)}
    return found


def test_sites_join_by_kind_and_shape_and_never_by_name() -> None:
    mine = [line("gemm", 10, n=4, k=2, name="a"), line("gemm", 20, n=4, k=2, name="b")]
    (site,) = compare(mine, [line("gemm", 30, n=4, k=2, name="c")])
    assert (site.ours, site.reference, site.equal) == (30, 30, True)
    assert causes(mine, [line("gemm", 30, n=4, k=2)]) == []


@pytest.mark.parametrize("near", [{"n": 5, "k": 2}, {"n": 4, "k": 2, "phase": "generation"}])
def test_another_shape_or_phase_is_a_difference_on_both_sides(near: Fields) -> None:
    found = causes([line("gemm", 1, n=4, k=2)], [line("gemm", 1, **near)])
    assert [cause.side for _, cause in found] == [UNEXPLAINED, UNEXPLAINED]


def test_logits_missing_in_context_need_logits_in_generation() -> None:
    mine = [line("logits", 1, n=9, k=2), line("logits", 1, n=9, k=2, phase="generation")]
    assert only_cause(mine, mine[1:]).text == "the reference has no logits GEMM in context"
    found = causes(mine, [])
    assert {cause.side for _, cause in found} == {UNEXPLAINED}


def moe_lists(*, counted: int) -> tuple[list[Line], list[Line]]:
    """3 dense and 58 MoE layers, of which the reference counts `counted` as MoE."""
    mine = [
        line("gemm", 3, n=36, k=7, layer="l.0"),
        line("gemm", 58, n=256, k=7, layer="l.3"),
        line("moe", 58, experts=256, layer="l.3"),
    ]
    return mine, [line("gemm", counted, n=256, k=7), line("moe", counted, experts=256)]


def test_dense_layers_counted_as_moe() -> None:
    cause = only_cause(*moe_lists(counted=61))
    assert cause.side == REFERENCE
    assert "(0 to 2) as MoE layers: 61 = 3 dense + 58 MoE in the trace" in cause.text


def test_another_number_of_moe_layers_stays_unexplained() -> None:
    assert {c.side for _, c in causes(*moe_lists(counted=60))} == {UNEXPLAINED}


def test_shared_expert_is_a_module_beside_the_experts() -> None:
    shared = line("gemm", 58, n=8, k=4, layer="l.3", name="mlp.shared.down", parameters=32)
    moe = line("moe", 58, experts=2, layer="l.3", name="mlp.experts")
    text = only_cause([moe, shared], [line("moe", 58, experts=2)]).text
    assert text == "the reference has no shared expert (`mlp.shared`, 1,856 parameters)"


def test_a_linear_outside_the_moe_module_is_no_shared_expert() -> None:
    other = line("gemm", 58, n=8, k=4, layer="l.3", name="attn.down.proj")
    moe = line("moe", 58, experts=2, layer="l.3", name="mlp.experts")
    assert only_cause([moe, other], [line("moe", 58, experts=2)]).side == UNEXPLAINED


def attention(count: int, *, window: int = 0, chunk: int = 0, **more: Any) -> Line:
    return line("attention", count, heads=40, kv=8, size=128, window=window, chunk=chunk, **more)


def test_local_and_global_layers_with_equal_sums() -> None:
    layers = {"l.0": [0, 1, 2, 4, 5, 6], "l.3": [3, 7]}
    mine = [attention(6, chunk=8192, layer="l.0"), attention(2, layer="l.3")]
    cause = only_cause(mine, [attention(4), attention(4, window=8192)], layers)
    assert cause.side == REFERENCE
    assert "chunks of 8192 6 / 0, full 2 / 4, window 8192 0 / 4; both sum to 8" in cause.text
    assert "full are layers 3, 7" in cause.text
    assert "takes chunks for a sliding window" in cause.text


def test_layer_counts_with_unequal_sums_stay_unexplained() -> None:
    assert {c.side for _, c in causes([attention(6, window=4)], [attention(7)])} == {UNEXPLAINED}


def sparse_parts() -> list[Line]:
    return [
        line("gemm", 61, n=10, k=7, layer="l.3", where="l.3.attn.q", parameters=70),
        line("gemm", 61, n=4, k=7, layer="l.3", where="l.3.attn.indexer.k", parameters=28),
        line("sparse indexer", 61, heads=2, size=4, layer="l.3", where="l.3.attn.indexer"),
        line("sparse attention", 61, heads=2, topk=8, layer="l.3", where="l.3.attn"),
    ]


def test_a_module_op_stands_for_the_parts_of_the_attention_module() -> None:
    layers = {"l.3": list(range(61))}
    module = line("attention module", 61, heads=2, topk=8, parameters=70)
    found = dict(causes(sparse_parts(), [module], layers))
    assert {cause.side for cause in found.values()} == {GRANULARITY}
    assert "lack 28 parameters per layer of the parts: the indexer's key projection (4 x 7)" in (
        found["attention module"].text
    )


def test_a_module_op_of_another_count_explains_nothing() -> None:
    module = line("attention module", 60, heads=2, topk=8)
    found = causes(sparse_parts(), [module], {"l.3": list(range(61))})
    assert {cause.side for _, cause in found} == {UNEXPLAINED}


def test_module_ops_that_lump_two_structures_together_say_which() -> None:
    layers = {"l.0": [0, 1], "l.2": [2, 4, 6], "l.3": [3, 5, 7, 9]}
    mine = [
        line("attention", 2, heads=8, layer="l.0", where="l.0.attn"),
        line("primitive", 3, node="attention", layer="l.2", where="l.2.attn", reason="odd keys"),
        line("primitive", 4, node="attention", layer="l.3", where="l.3.attn", reason="odd keys"),
        line("gemm", 3, n=2, k=5, layer="l.2", where="l.2.attn.indexer"),
        line("gemm", 4, n=1, k=5, layer="l.3", where="l.3.attn.compressor"),
    ]
    theirs = [line("attention module", 3, module="a"), line("attention module", 6, module="b")]
    found = causes(mine, theirs, layers)
    sides = [(kind, cause.side) for kind, cause in found]
    assert ("primitive", OURS) in sides
    lumped = next(cause for _, cause in found if "6 = 2 + 4" in cause.text)
    assert lumped.side == REFERENCE
    assert "2 of them have no gemm (n 1, k 5)" in lumped.text


def test_stream_modules_that_carry_the_same_weights_twice() -> None:
    mine = [
        line("gemm", 6, n=24, k=32, layer="l.0", parameters=768),
        line("bmm", 6, batch="b", n=8, k=4, layer="l.0"),
        line("gemm", 1, n=4, k=32, name="head"),
    ]
    theirs = [
        line("stream module", 3, module=name, streams=4, hidden=8, parameters=2 * 768)
        for name in ("pre", "post")
    ]
    sides = [(kind, cause.side) for kind, cause in causes(mine, theirs)]
    assert sides == [
        ("gemm", GRANULARITY),
        ("bmm", GRANULARITY),
        ("gemm", REFERENCE),
        ("stream module", GRANULARITY),
        ("stream module", REFERENCE),
    ]


def test_mla_core_with_other_heads_than_its_products() -> None:
    product = line("bmm", 61, phase="generation", batch=64, n=512, k=128)
    core = {"phase": "generation", **MLA}
    mine = [product, line("mla", 61, heads=64, **core)]
    text = only_cause(mine, [product, line("mla", 61, heads=128, **core)]).text
    assert "prices its core with 128 heads; its own products around it have 64" in text


def test_gate_per_head_missing_in_the_reference() -> None:
    core = attention(45, layer="l.0", where="l.0.attn")
    gate = line("gemm", 45, n=40, k=7, layer="l.0", where="l.0.attn.g", name="attn.g")
    assert "no gate per head (`attn.g`" in only_cause([core, gate], [attention(45)]).text
    wider = line("gemm", 45, n=41, k=7, layer="l.0", where="l.0.attn.g", name="attn.g")
    assert only_cause([core, wider], [attention(45)]).side == UNEXPLAINED


def test_the_same_gemm_for_other_rows() -> None:
    mine = line("gemm", 61, n=4, k=2, rows="b*(p+s)")
    text = only_cause([mine], [line("gemm", 61, n=4, k=2, rows="b*s")]).text
    assert text.startswith("m is b*s in the reference, b*(p+s) in the trace")
    other = line("gemm", 60, n=4, k=2, rows="b*s")
    assert only_cause([mine], [other]).side == UNEXPLAINED


def our_op(op: str, params: Fields, dims: Fields, **more: Any) -> Fields:
    where = more.pop("where", ["x"])
    op_fields = {"op": op, "name": op, "count": 1, "params": params, "dims": dims, "layer": ""}
    return op_fields | {"where": where} | more


def test_both_readers_agree_on_one_model() -> None:
    """An embedding, its logits, a block in two granularities, and what neither side compares."""
    table = {"num_embeddings": 9, "embedding_dim": 2, "dtype": "bfloat16"}
    gemm = {"n": 9, "k": 2, "dtype": "bfloat16", "tied": True}
    scan = {"num_k_heads": 1, "head_k_dim": 2, "num_v_heads": 3, "head_v_dim": 4}
    phase = [
        our_op("embedding", table, {"m": "b"}),
        our_op("gated_delta_rule", scan, {"b": "b"}),
        our_op("causal_conv1d", {"channels": 16, "kernel_size": 4}, {"b": "b"}),
        our_op("pointwise", {"functions": "add"}, {}),
        our_op("gemm", gemm, {"m": "b"}),
    ]
    report = {"op_list": {"phases": {"context": phase, "generation": []}}, "unsupported": []}
    kernel = scan | {"d_conv": 4}
    inner = [
        ref_op("GDNKernel", kernel | {"kernel_source": "causal_conv1d_fn"}),
        ref_op("GDNKernel", kernel | {"kernel_source": "chunk_gated_delta_rule"}),
    ]
    block = ref_op("FallbackOp", {}) | {
        "children": {"primary": [ref_op("Unread", {})], "fallback": inner}
    }
    entry = {
        "context_ops": [
            ref_op("Embedding", {"vocab_size": 9, "hidden_size": 2, "quant_mode": "bfloat16"}),
            block,
            ref_op("ElementWise", {}),
            ref_op("GEMM", {"n": 9, "k": 2, "quant_mode": "bfloat16"}, name="context_logits_gemm"),
        ],
        "generation_ops": [],
    }
    sites = compare(ours(report), reference(entry))
    assert [site.kind for site in sites] == ["embedding", "gated delta rule", "conv1d", "logits"]
    assert all(site.equal for site in sites)
    assert sites[-1].parameters == 18  # tied: the reference counts the matrix again


def ref_op(op: str, params: Fields, *, name: str = "context_x") -> Fields:
    return {"op": op, "name": name, "scale_factor": 1.0, "weight_bytes": 0.0, "params": params}


def test_an_op_of_the_reference_that_no_reader_knows_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not know: NewOp"):
        reference({"context_ops": [ref_op("NewOp", {})], "generation_ops": []})


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([0, 1, 2], "0 to 2"), ([3, 7, 11, 15], "3, 7, ..., 15"), ([0], "0"), ([0, 3], "0, 3")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_the_page_says_what_it_was_made_with_and_merges_both_phases() -> None:
    mine = [
        line("gemm", 2, n=4, k=2, name="proj", phase=phase) for phase in ("context", "generation")
    ]
    sites = compare(mine, [])
    weights = Weights(real=1000, bytes_off=0, reference=1100, published_error=0.1)
    model = Model(name="org/a", sites=sites, differences=list(explain(sites, {})), weights=weights)
    page = render("tool 1.0", [model, Model(name="org/b", failure="unknown")], ("bfloat16",))
    assert made_with(page) == "tool 1.0"
    assert "| both | gemm (n 4, k 2): `proj` | 2 | 0 | unexplained | unexplained |" in page
    assert "| org/a | 1,000 | exact | +10.000% |" in page
    assert "- org/b: unknown" in page
