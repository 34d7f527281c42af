"""Representative layers: counts, indices, sliced lists, and the cases that must be traced at full depth."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.tracer import small_models
from tests.tracer.small_models import SMALL, each
from tracer import analysis
from tracer.build import build_model
from tracer.prune import full_parameters, prune, stacks
from tracer.resolve import resolve


def build(config) -> nn.Module:
    return build_model(
        resolve(small_models.write(config)),
        attn_implementation="eager",
        experts_implementation="batched_mm",
    )


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_kept_layers_times_counts_are_the_whole(name):
    """Counts sum to the depth, every layer is in one group, and the parameters come back exactly."""
    model = build({k: v for k, v in SMALL[name].items() if k != "quantization_config"})
    depth, total = model.config.num_hidden_layers, parameters(model)
    found = prune(model)
    assert found.reason == ""
    assert found.parameters == total == full_parameters(model, found)
    for _, kept in itertools.groupby(found.kept, key=lambda k: k.layer.stack):
        layers = [k.layer for k in kept]
        assert sorted(i for layer in layers for i in layer.indices) == list(range(depth))
        assert all(
            layer.count == len(layer.indices) and layer.representative == layer.indices[0]
            for layer in layers
        )
    assert model.config.num_hidden_layers == depth


SLIDING, FULL = "sliding_attention", "full_attention"
PATTERNS = (
    [SLIDING, SLIDING, FULL, SLIDING, FULL, FULL, SLIDING],
    [FULL, SLIDING, SLIDING, SLIDING, SLIDING, SLIDING, FULL],
    [SLIDING] * 7,
)


@pytest.mark.parametrize("pattern", PATTERNS, ids=["mixed", "ends", "one kind"])
def test_layers_group_by_what_they_do(pattern):
    """Groups follow the config's pattern; config, indices and the number of layers stay those of the full depth."""
    model = build({**SMALL["gpt_oss"], "num_hidden_layers": 7, "layer_types": pattern})
    found = prune(model)
    kinds = list(dict.fromkeys(pattern))
    assert [k.layer.indices for k in found.kept] == [
        tuple(i for i, kind in enumerate(pattern) if kind == wanted) for wanted in kinds
    ]
    assert model.config.layer_types == pattern
    assert len(model.model.layers) == 7
    assert [k.id for k in found.kept] == [f"model.layers.{pattern.index(kind)}" for kind in kinds]
    assert [bool(list(layer.parameters())) for layer in model.model.layers] == [
        pattern.index(kind) == i for i, kind in enumerate(pattern)
    ]


def test_stand_ins_can_be_withdrawn():
    """Within `whole` the model is itself; behind it the stand-ins are back."""
    model = build(SMALL["llama"])
    names = [name for name, _ in model.named_parameters()]
    found = prune(model)
    kept = [name for name, _ in model.named_parameters()]
    with found.whole():
        assert [name for name, _ in model.named_parameters()] == names
        assert {found.standing(name) for name in names} == set(kept)
    assert [name for name, _ in model.named_parameters()] == kept
    assert len(kept) < len(names)


@pytest.mark.slow
def test_pruned_and_whole_traces_agree():
    """The op list of an odd pattern is the same from representative layers and from the full depth."""
    config = {**SMALL["gpt_oss"], "num_hidden_layers": 7, "layer_types": PATTERNS[0]}
    path = small_models.write(config)
    pruned = analysis.report(analysis.trace_model(path), analysis.Options())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "prune", lambda model, label, **_: prune(model, label, whole=True))
        whole = analysis.report(analysis.trace_model(path), analysis.Options())
    assert [k["count"] for k in whole["layers"]] == [1] * 7
    for phase in ("context", "generation"):
        # clusters that reach over a layer's end differ: the full depth shows them between two layers
        sums = [
            {kind: sum(o["count"] for o in r["op_list"]["phases"][phase] if o["op"] == kind)
             for kind in ("gemm", "moe", f"{phase}_attention")}
            for r in (pruned, whole)
        ]  # fmt: skip
        assert sums[0] == sums[1]
    for key in ("parameters", "weight_bytes"):
        assert pruned[key] == whole[key]
    assert pruned["kv_cache"]["bytes_per_token"] == whole["kv_cache"]["bytes_per_token"]
    assert pruned["kv_cache"]["bytes_per_sequence"] == whole["kv_cache"]["bytes_per_sequence"]
    assert pruned["conservation"]["flops"]["counter"] == whole["conservation"]["flops"]["counter"]
    assert pruned["conservation"]["weights"] == whole["conservation"]["weights"]


def shared(model: nn.Module) -> nn.Module:
    """Layer 3 has the up projection of layer 1."""
    model.model.layers[3].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    return model


def test_a_parameter_shared_between_layers_counts_once():
    """Five layers, four projections."""
    model = shared(build(SMALL["llama"]))
    total = parameters(model)
    found = prune(model)
    assert found.reason == ""
    assert [k.layer.count for k in found.kept] == [5]
    assert found.copies["model.layers.0.mlp.up_proj.weight"] == 4
    assert found.copies["model.layers.0.mlp.down_proj.weight"] == 5
    assert full_parameters(model, found) == total


def test_a_parameter_of_a_layer_and_the_rest_counts_once():
    """A layer that uses the embedding's table."""
    model = build(SMALL["llama"])
    model.model.layers[2].table = nn.Embedding(173, 48, device="meta")
    model.model.layers[2].table.weight = model.model.embed_tokens.weight
    total = parameters(model)
    found = prune(model)
    assert [k.layer.indices for k in found.kept] == [(0, 1, 3, 4), (2,)]
    assert full_parameters(model, found) == total


def test_a_shared_parameter_is_held_by_as_many_occurrences_as_there_are(monkeypatch):
    """Four occurrences of the op hold a weight, the fifth reads one of them; conservation is exact."""

    def sharing(*args, **kwargs):
        return shared(build_model(*args, **kwargs))

    monkeypatch.setattr(analysis, "build_model", sharing)
    found = analysis.analyse(small_models.folder("llama"), analysis.Options(lowering="eager"))
    assert not found["full_depth"]
    assert found["conservation"]["exact"]
    assert found["conservation"]["weights"]["model"] == 2 * found["parameters"]
    up = [o for o in found["op_list"]["phases"]["context"] if o["name"] == "mlp.up_proj"]
    assert [(o["count"], o["weight_bytes"], bool(o["params"].get("tied"))) for o in up] == [
        (4, 2 * 48 * 112, False),
        (1, 0, True),
    ]


def test_a_label_separates_layers_that_look_alike():
    """What the module does not show (its quantisation) belongs to the structure."""
    model = build(SMALL["llama"])
    found = prune(model, lambda path, _layer: path.endswith(".2"))
    assert [k.layer.indices for k in found.kept] == [(0, 1, 3, 4), (2,)]


def test_layers_kept_in_bf16_are_a_kind_of_their_own():
    """One layer that the quantisation leaves out."""
    config = dict(SMALL["mixtral_fp8"])
    config["quantization_config"] = {
        **config["quantization_config"],
        "modules_to_not_convert": ["model.layers.2.self_attn", "lm_head"],
    }
    found = analysis.analyse(small_models.write(config), analysis.Options())
    assert [k["indices"] for k in found["layers"]] == [[0, 1, 3, 4], [2]]
    assert found["conservation"]["exact"]


def test_scalars_of_a_module_belong_to_its_structure():
    """A scale that one layer has different is another kind, its index is not."""
    model = build(SMALL["llama"])
    model.model.layers[4].self_attn.scaling = 0.5
    assert [k.layer.indices for k in prune(model).kept] == [(0, 1, 2, 3), (4,)]


@pytest.mark.parametrize(
    "extra", [{"eos_token_id": [2, 3, 4, 5, 6]}, {"eos_token_id": [2, 2, 2, 2, 2]}]
)
def test_a_list_as_long_as_the_depth_does_no_harm(extra):
    """A list that is not per layer may split groups, but nothing is lost."""
    found = analysis.analyse(small_models.write({**SMALL["llama"], **extra}), analysis.Options())
    assert sum(k["count"] for k in found["layers"]) == 5
    assert found["conservation"]["exact"]


def test_a_stack_is_found_by_its_depth():
    """The outermost lists with one element per layer; lists inside them (experts, say) are no stacks."""
    inner = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    block = nn.Module()
    block.experts = inner
    model = nn.Module()
    model.layers = nn.ModuleList([block, nn.Module(), nn.Module()])
    model.other = nn.ModuleList([nn.Linear(2, 2)])
    assert [path for path, _ in stacks(model, {3})] == ["layers"]


def test_a_model_without_a_stack_is_traced_whole():
    """No list of layers: one graph, and the reason."""
    model = nn.Linear(3, 4)
    model.config = SimpleNamespace(num_hidden_layers=2)
    found = prune(model)
    assert found.kept == ()
    assert found.reason == "no stack of decoder layers was found"
    assert found.parameters == full_parameters(model, found) == 16
    assert torch.is_tensor(model.weight)


@pytest.mark.parametrize("name", each())
def test_ops_count_what_layers_count(name):
    """An op's count is that of its layer, and 1 outside the stacks."""
    found = small_models.report(name)
    counts = {k["id"]: k["count"] for k in found["layers"]} | {"": 1}
    for ops in found["op_list"]["phases"].values():
        assert all(o["count"] == counts[o["layer"]] for o in ops)
