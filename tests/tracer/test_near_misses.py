"""Work that looks like a known op and is not: it stays where it is, at its own size, or shows as a primitive."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_moe import modeling_qwen3_moe

from oplib.symbols import B, S, evaluate
from tests.tracer import small_models, toy
from tests.tracer.toy import WIDTH, claims, linear, parameter
from tracer import analysis, prune, rewrite
from tracer.match.targets import base_name

EXPERTS = 6


def serving(body, **parts):
    return rewrite.lower(toy.matched(body, **parts), "serving")


def primitives(found) -> set[str]:
    return {base_name(node) for node in found.primitives}


def gated_experts(m, x):
    """Stacked experts whose routing weights enter a second time, between the two products."""
    tokens = m.before(x).flatten(0, 1)
    scores = m.router(tokens)
    chosen = torch.zeros_like(scores).scatter(1, scores.topk(2, dim=-1).indices, 1.0)
    weights = chosen.transpose(0, 1).reshape(EXPERTS, -1, 1)
    gate, up = torch.bmm(tokens.expand(EXPERTS, -1, -1) * weights, m.up).chunk(2, dim=-1)
    return torch.bmm(functional.silu(gate) * up * weights, m.down).sum(0)


def test_routing_between_two_products_swallows_nothing():
    """Whatever the rewrite takes for routed experts, the layers before them stay in the list."""
    found = serving(
        gated_experts,
        before=linear(WIDTH),
        router=linear(EXPERTS),
        up=parameter(EXPERTS, WIDTH, 34),
        down=parameter(EXPERTS, 17, WIDTH),
    )
    assert sorted(c.params["n"] for c in claims(found, "gemm")) == [EXPERTS, WIDTH]
    assert len(claims(found, "embedding")) == 1


def test_a_length_rounded_up_is_not_rounded_down():
    """Blocks of 64: a rest is a block of its own, and a short prompt is one block, not none."""

    def body(_m, x):
        padded = functional.pad(x, (0, 0, 0, -x.shape[1] % 64))
        blocks = padded.unflatten(1, (-1, 64)).flatten(0, 1)
        return torch.bmm(blocks, blocks.transpose(1, 2))

    (claim,) = claims(toy.matched(body), "bmm")
    for s, blocks in ((1, 1), (63, 1), (64, 1), (65, 2), (641, 11)):
        assert evaluate(claim.dims["batch"], b=2, s=s, p=0) == 2 * blocks


@pytest.mark.parametrize("name", ["cumsum", "fft_fft"])
def test_an_unknown_step_on_a_weight_is_a_primitive(name):
    """Preparing a weight is part of its product only where it is memory-bound."""
    steps = {
        "cumsum": lambda w: w.cumsum(0),
        "fft_fft": lambda w: torch.fft.fft(w.float()).real.to(w.dtype),
    }
    found = toy.matched(lambda m, x: functional.linear(x, steps[name](m.w)), w=parameter(13, WIDTH))
    assert name in primitives(found)


def test_slices_of_one_tensor_are_different_inputs():
    """Two layers over two halves stay two products."""

    def body(m, x):
        first, second = x.chunk(2, dim=-1)
        return m.a(first) + m.b(second)

    found = serving(body, a=linear(32, WIDTH // 2), b=linear(32, WIDTH // 2))
    assert [c.params["n"] for c in claims(found, "gemm")] == [32, 32]


def test_a_shared_parameter_does_not_bridge_a_product():
    """What is made of a parameter alone is no reason to fuse work before a product with work behind it."""

    def body(m, x):
        scale = 1 + m.scale
        return m.proj(x * scale) * scale

    found = serving(body, scale=parameter(WIDTH), proj=linear(WIDTH))
    product = next(c for c in found.claims if c.kind == "gemm").anchor
    position = found.flow.position
    for claim in claims(found, "pointwise"):
        data = [n for n in claim.nodes if found.flow.role[n].name == "DATA"]
        assert len({position(n) < position(product) for n in data}) <= 1


def test_a_computed_matrix_is_read_once_for_all_rows():
    """(b, s, k) x (k, n): the second factor has no batch."""
    found = toy.matched(
        lambda m, x: x @ (m.w + m.u), w=parameter(WIDTH, 10), u=parameter(WIDTH, 10)
    )
    (claim,) = claims(found, "bmm")
    assert claim.dims == {"batch": sympy.Integer(1), "m": B * S}


class Alternating(nn.Module):
    """A layer that runs on every second index."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.proj = linear(WIDTH)

    def forward(self, x):
        return self.proj(x) if self.index % 2 else x


class Looking(Alternating):
    """A layer that uses its index to look something up, and nothing else."""

    def forward(self, x):
        return self.proj(x) * [1.0, 1.0, 1.0, 1.0][self.index]


@pytest.mark.parametrize(("cls", "groups"), [(Alternating, 4), (Looking, 1)])
def test_layers_that_compute_with_their_index_are_not_alike(cls, groups):
    """Equal modules differ where the forward branches on the index: then every layer is traced."""
    model = toy.Toy(lambda _m, x: x, layers=nn.ModuleList(cls(i) for i in range(4)))
    model.config.num_hidden_layers = 4
    found = prune.prune(model)
    assert len(found.kept) == groups
    assert bool(found.reason) == (groups == 4)


class Running(modeling_qwen3_moe.Qwen3MoeTopKRouter):
    """A router whose scores run over the tokens."""

    def forward(self, hidden_states):
        logits = functional.linear(hidden_states.reshape(-1, self.hidden_dim), self.weight)
        scores = logits.cumsum(0).softmax(-1)
        values, indices = scores.topk(self.top_k, dim=-1)
        return logits, values, indices


def test_an_unknown_step_in_a_router_is_a_primitive(monkeypatch):
    """Routing is top-k and memory-bound work; anything else in a router shows."""
    monkeypatch.setattr(modeling_qwen3_moe, "Qwen3MoeTopKRouter", Running)
    found = analysis.analyse(small_models.folder("qwen3_moe"), analysis.Options())
    assert found["situation"] == "S3"
    assert {u["primitive"] for u in found["unsupported"]} == {"aten.cumsum"}
    assert found["conservation"]["exact"]
