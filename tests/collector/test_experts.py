"""Experts alone are the code that transformers runs in a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oplib.kernels.check import check
from oplib.kernels.moe.eager import route
from oplib.kernels.moe.grouped_mm_compiled import GroupedMmCompiled
from oplib.kernels.registry import slot
from oplib.kernels.source import FreshSource
from oplib.kernels.variant import Inputs
from oplib.params import Params
from oplib.registry import kind

SIZES = {
    "hidden_size": 64, "intermediate_size": 40, "num_experts": 12, "top_k": 3, "dtype": "bfloat16",
}  # fmt: skip


def of_mixtral() -> nn.Module:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    return MixtralExperts(
        MixtralConfig(hidden_size=64, intermediate_size=40, num_local_experts=12, hidden_act="silu")
    )


def of_nemotron_h() -> nn.Module:
    from transformers import NemotronHConfig
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

    return NemotronHExperts(
        NemotronHConfig(hidden_size=64, moe_intermediate_size=40, n_routed_experts=12)
    )


def case(**more: bool) -> tuple[Params, Inputs]:
    params = kind("moe").complete({**SIZES, **more})
    return params, slot("moe").reference.inputs(params, {"m": 37}, FreshSource("cpu", 5))


@pytest.mark.parametrize(
    ("make", "gated", "up"),
    [(of_mixtral, True, "gate_up_proj"), (of_nemotron_h, False, "up_proj")],
)
def test_same_numbers_as_the_module_of_a_model(make, gated: bool, up: str) -> None:
    """Bit by bit, with the same weights and choices."""
    params, inputs = case(gated=gated)
    experts = make().requires_grad_(False)
    experts.config._experts_implementation = "grouped_mm"
    setattr(experts, up, nn.Parameter(inputs["up"], requires_grad=False))
    experts.down_proj = nn.Parameter(inputs["down"], requires_grad=False)
    weights, chosen = route(inputs["logits"], 3)
    expected = experts(inputs["x"], chosen, weights.to(torch.bfloat16))
    found = slot("moe").variants["grouped_mm"].bound(inputs, params, {"m": 37})()[0]
    assert torch.equal(found, expected)


def test_biases_come_with_weights_that_lie_the_other_way() -> None:
    """As gpt-oss stores them: the grouped product gets the same strides as from its module."""
    _, inputs = case(bias=True)
    assert inputs["up"].transpose(1, 2).is_contiguous()
    assert inputs["down"].transpose(1, 2).is_contiguous()
    assert case()[1]["up"].is_contiguous()


class Captured(GroupedMmCompiled):
    """Compiled as on a GPU, up to the code."""

    backend = "aot_eager"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("more", [{}, {"bias": True}, {"gated": False}], ids=str)
def test_it_compiles_to_one_graph(more: dict[str, bool]) -> None:
    """No break; the tokens are a constant of the code, as in a model that is compiled for a batch."""
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    variant = Captured("moe", "captured", slot("moe").reference.inputs)
    params = kind("moe").complete({**SIZES, **more})
    for m, graphs in ((170, 1), (21, 2), (171, 3), (300, 4), (21, 4), (37, 5)):
        assert check(variant, params, {"m": m}, device="cpu", seed=0).ok
        assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
