"""What ops show: one rule per test, with a near miss beside it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from models import signature as module
from models.features import FEATURES
from models.signature import signature

NORM = "add+mean+mul+pow+rsqrt"


def test_dense_layer(build):
    """A plain decoder layer shows its attention, its MLP and nothing else."""
    found = signature(build.make_report([*build.attention(), *build.mlp()]))
    assert found == {
        "attention:plain",
        "attention:gqa",
        "attention:full",
        "mlp:dense",
        "mlp:gated",
        "mlp:silu",
    }


@pytest.mark.parametrize(
    ("params", "feature"),
    [
        ({"window": 128}, "attention:window"),
        ({"chunk": 128}, "attention:chunk"),
        ({"softcap": 50.0}, "attention:softcap"),
        ({"sinks": True}, "attention:sinks"),
        ({"causal": False}, "attention:bidirectional"),
        ({"num_kv_heads": 4}, "attention:mha"),
        ({"num_kv_heads": 1}, "attention:mqa"),
        ({"v_head_dim": 8}, "attention:value_size"),
    ],
)
def test_attention_parameters(build, params, feature):
    """Each parameter of attention that changes its work is a feature, and is absent without it."""
    assert feature in signature(build.make_report(build.attention(**params)))
    assert feature not in signature(build.make_report(build.attention()))


def test_a_window_is_not_full_attention(build):
    """Windows in every layer and windows in some differ by full attention."""
    windowed, full = build.attention(window=128), build.attention()
    assert "attention:full" not in signature(build.make_report(windowed))
    assert "attention:full" in signature(build.make_report(windowed, full))


def test_latent_attention(build):
    """A latent rank makes attention latent; a query product that reads something narrower is low-rank."""
    latent = {"num_heads": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
    core = ("context_mla", "self_attn", latent | {"v_head_dim": 16, "causal": True})
    out = build.gemm("self_attn.o_proj", 64, 64)
    narrow = signature(build.make_report([build.gemm("self_attn.q_b_proj", 96, 24), core, out]))
    direct = signature(build.make_report([build.gemm("self_attn.q_proj", 96, 64), core, out]))
    assert narrow == {"attention:latent", "attention:full", "attention:query_low_rank"}
    assert direct == {"attention:latent", "attention:full"}


def test_selection_by_another_layer(build):
    """An indexer in every layer is one thing; layers that reuse a selection are another."""
    index = ("sparse_indexer", "self_attn.indexer", {"num_heads": 2, "head_dim": 8, "topk": 64})
    own = [index, *build.attention(topk=64)]
    assert {"sparse:indexer", "attention:sparse"} <= signature(build.make_report(own))
    assert "sparse:shared" not in signature(build.make_report(own))
    assert "sparse:shared" in signature(build.make_report(own, build.attention(topk=64)))


@pytest.mark.parametrize(
    ("path", "functions", "found"),
    [
        ("self_attn.q_norm", NORM, True),
        ("self_attn", NORM, False),
        ("self_attn.rotary", "cat+mul+neg", False),
        ("input_layernorm", NORM, False),
    ],
)
def test_qk_norm(build, path, functions, found):
    """A norm counts as one of q and k where it is a module of its own inside the attention block."""
    norm = ("pointwise", path, {"functions": functions})
    report = build.make_report([*build.attention()[:1], norm, *build.attention()[1:]])
    assert ("attention:qk_norm" in signature(report)) == found


@pytest.mark.parametrize(
    ("ops", "feature"),
    [
        ([("pointwise", "self_attn", {"functions": "mul+sigmoid"})], "attention:output_gate"),
        ([("pointwise", "mlp", {"functions": "mul+sigmoid"})], None),
    ],
)
def test_output_gate(build, ops, feature):
    """A sigmoid gates the attention output only inside the attention block."""
    found = signature(build.make_report([*build.attention(), *ops]))
    assert ("attention:output_gate" in found) == (feature is not None)


def test_biases(build):
    """Biases are told apart by what lies before and after the attention core, and from those of the MLP."""
    first = build.gemm("self_attn.qkv_proj", 128, 64, bias=True)
    layer = [first, *build.attention()[1:], *build.mlp(bias=True)]
    found = signature(build.make_report(layer))
    assert {f for f in found if f.startswith("bias:")} == {"bias:attention_in", "bias:mlp"}


@pytest.mark.parametrize(("gated", "feature"), [(True, "mlp:gated"), (False, "mlp:plain")])
def test_gate_of_an_mlp(build, gated, feature):
    """Twice the columns of the middle mean a gate, in one product or two."""
    assert feature in signature(build.make_report([*build.attention(), *build.mlp(gated=gated)]))


def test_two_products_are_a_gate_too(build):
    """As written, gate and up are separate products."""
    apart = [build.gemm(f"mlp.{n}", 96, 64) for n in ("gate", "up")]
    report = build.make_report([*build.attention(), *apart, build.gemm("mlp.down", 64, 96)])
    assert "mlp:gated" in signature(report)
    assert "mlp:plain" not in signature(report)


def test_shared_experts(build):
    """A dense MLP in the experts' block is a shared expert, in a block of its own it is beside them."""
    shared = signature(build.make_report([*build.experts(), *build.mlp("mlp.shared_experts")]))
    beside = signature(build.make_report([*build.experts("experts"), *build.mlp("mlp")]))
    assert {"moe:routed", "moe:gated", "moe:shared_experts"} <= shared
    assert "moe:beside_mlp" not in shared
    assert "moe:beside_mlp" in beside
    assert not {"moe:shared_experts", "mlp:dense"} & beside


def test_latent_experts(build):
    """The products into and out of a narrower space of the experts are not an MLP."""
    down, up = build.gemm("mlp.to_latent", 32, 64), build.gemm("mlp.from_latent", 64, 32)
    found = signature(build.make_report([down, *build.experts(hidden_size=32), up]))
    assert found == {"moe:routed", "moe:gated", "moe:latent"}


@pytest.mark.parametrize(
    ("dense", "routed", "feature"),
    [
        ([0, 1], [2, 3], "layers:leading_dense"),
        ([0, 2], [1, 3], "layers:interleaved_dense"),
    ],
)
def test_dense_layers_among_experts(build, dense, routed, feature):
    """Dense layers lead only when all of them come before the first layer with experts."""
    layers = ([*build.attention(), *build.mlp()], [*build.attention(), *build.experts()])
    found = signature(build.make_report(*layers, indices=[dense, routed]))
    assert {f for f in found if f.startswith("layers:")} == {feature}


def scan(path: str) -> list[object]:
    return [("causal_conv1d", path, {}), ("mamba2", path, {"phase": "context"})]


@pytest.mark.parametrize(
    ("layers", "features"),
    [
        (("AM", "SM"), {"layers:hybrid"}),
        (("ASM",), {"layers:parallel_mixers"}),
        (("A", "S", "M"), {"layers:hybrid", "layers:single_mixer"}),
        (("AM", "M"), {"layers:without_mixer"}),
        (("AM",), set()),
    ],
)
def test_hybrid_patterns(build, layers, features):
    """A: attention, S: scan, M: MLP; a word is a layer."""
    parts = {"A": build.attention(), "S": scan("mamba"), "M": build.mlp()}
    report = build.make_report(*([op for part in layer for op in parts[part]] for layer in layers))
    assert {f for f in signature(report) if f.startswith("layers:")} == features


def test_a_gap_is_no_missing_mixer(build):
    """A layer with primitives may mix tokens in a way that no op covers."""
    report = build.make_report([*build.attention(), *build.mlp()], build.mlp())
    report["unsupported"] = [{"layer": "model.layers.1", "primitive": "aten.cumsum"}]
    assert "layers:without_mixer" not in signature(report)


@pytest.mark.parametrize(("gate", "kind"), [("scalar", "scalar"), ("channel", "channel")])
def test_gated_delta_rule(build, gate, kind):
    """The gate tells GDN from KDA."""
    report = build.make_report([("gated_delta_rule", "linear_attn", {"gate": gate})])
    assert signature(report) == {f"scan:gated_delta_rule:{kind}"}


def test_outside_the_layers(build):
    """Tied embeddings, a second embedding, the last norm and a cap after the head."""
    outside = [
        ("embedding", "model.wte", {}),
        ("embedding", "model.wpe", {}),
        ("pointwise", "model.norm", {"functions": "layer_norm"}),
        build.gemm("lm_head", 512, 64, tied=True),
        ("pointwise", "", {"functions": "div+mul+tanh"}),
    ]
    found = signature(build.make_report(outside=outside))
    assert found == {"embedding:tied", "embedding:several", "norm:layer", "logits:softcap"}


def test_a_kind_of_its_own(build):
    """An op kind that no rule reads is a feature by its name, so that it is not lost."""
    assert signature(build.make_report([("fourier_mix", "mixer", {})])) == {"op:fourier_mix"}


def test_no_layers():
    """A report without layers or ops has an empty signature."""
    assert signature({"layers": [], "op_list": {"phases": {"context": []}}}) == frozenset()


def test_every_name_has_words():
    """What the rules yield is in the vocabulary, and the vocabulary has nothing else."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    texts = {n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)}
    named = {t for t in texts if isinstance(t, str) and t in FEATURES}
    yielded = {t for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Yield) for t in names(n)}
    assert yielded <= FEATURES.keys()
    spelt_from_parts = ("attention:", "mlp:", "scan:")
    assert all(n in named or n.startswith(spelt_from_parts) for n in FEATURES)


def names(node: ast.Yield) -> list[str]:
    """Whole names in a yield; names that are put together are in the tests above."""
    inside = [n for n in ast.walk(node) if isinstance(n, ast.Constant | ast.JoinedStr)]
    if any(isinstance(n, ast.JoinedStr) for n in inside):
        return []
    return [n.value for n in inside if isinstance(n.value, str) and ":" in n.value]
