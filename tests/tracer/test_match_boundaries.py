"""Matchers of attention, experts and scans: one match with its numbers, and one near miss with its reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oplib.symbols import B, P, S
from tests.tracer import small_models, toy
from tests.tracer.toy import WIDTH, claims, heads, linear, parameter, reasons
from tracer import boundaries
from tracer.boundaries import attention as attention_boundary
from tracer.boundaries import causal_conv1d as conv_boundary
from tracer.boundaries import gated_delta_rule as delta_boundary
from tracer.boundaries import mamba1_scan, mamba2_scan

# attention --------------------------------------------------------------------------------------


def attend(module, q, k, v, **options):
    return attention_boundary.attention(module, q, k, v, None, **options)[0].flatten(2)


def test_attention():
    """Heads, head sizes, window, soft cap and sinks come off the call."""

    def body(m, x):
        return attend(
            m,
            heads(m.q(x), 6),
            heads(m.k(x), 2),
            heads(m.v(x), 2),
            sliding_window=9,
            softcap=3.0,
            s_aux=m.sinks,
        )

    found = toy.matched(body, q=linear(60), k=linear(20), v=linear(14), sinks=parameter(6))
    (claim,) = claims(found, "context_attention")
    assert {
        k: claim.params[k] for k in ("num_heads", "num_kv_heads", "head_dim", "v_head_dim")
    } == {
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 10,
        "v_head_dim": 7,
    }
    assert (claim.params["window"], claim.params["softcap"], claim.params["sinks"]) == (
        9,
        3.0,
        True,
    )
    assert len(claim.parameters) == 1
    assert (claim.dims["b"], claim.dims["s"], claim.dims["p"]) == (B, S, 0)


def test_attention_over_other_keys_is_refused():
    """Keys that are neither the cached nor the new tokens (here every second) have no op yet."""
    found = toy.matched(
        lambda m, x: attend(m, heads(x, 2), heads(x[:, ::2], 2), heads(x[:, ::2], 2))
    )
    assert not claims(found, "context_attention")
    assert "not the p cached and" in reasons(found)
    assert "trace_model.attention" in {
        str(n.target).removesuffix(".default") for n in found.primitives
    }


def test_sdpa_past_the_registry():
    """A direct call of scaled_dot_product_attention is attention too."""

    def body(_m, x):
        q = heads(x, 3)
        return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    (claim,) = claims(toy.matched(body), "context_attention")
    assert (claim.params["num_heads"], claim.params["head_dim"], claim.params["causal"]) == (
        3,
        8,
        True,
    )


def test_sdpa_over_other_keys_is_refused():
    """As for the boundary."""

    def body(_m, x):
        q, k = heads(x, 3), heads(x[:, :5], 3)
        return nn.functional.scaled_dot_product_attention(q, k, k)

    found = toy.matched(body)
    assert not claims(found, "context_attention")
    assert "it sees 5 keys" in reasons(found)


def test_latent_attention():
    """Keys and values expanded from a narrow latent are MLA with the latent's sizes."""
    found = small_models.matched("deepseek_v3", "generation")
    names = ("num_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    for claim in claims(found, "generation_mla"):
        assert [claim.params[n] for n in names] == [6, 20, 14, 6, 18]
        assert not claim.params["absorbed"]
    assert not claims(found, "generation_attention")


def test_a_latent_as_wide_as_the_heads_is_plain_attention():
    """No latent without a smaller rank: storing it would not save anything, engines run plain heads."""

    def body(m, x):
        latent = m.down(x)
        expanded = heads(m.up(latent), 2)
        rope = heads(m.rope(x), 1).expand(-1, 2, -1, -1)
        key = torch.cat([expanded[..., :8], rope], dim=-1)
        return attend(m, heads(m.q(x), 2), key, expanded[..., 8:])

    def found(rank):
        parts = {"q": linear(24), "down": linear(rank), "up": linear(32, rank), "rope": linear(4)}
        return toy.matched(body, **parts)

    (narrow,) = claims(found(12), "context_mla")
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    assert [narrow.params[n] for n in names] == [12, 8, 4, 8]
    wide = found(32)
    assert not claims(wide, "context_mla")
    assert len(claims(wide, "context_attention")) == 1


def test_one_layer_for_keys_and_values_is_no_latent():
    """Without a rotary part a latent is told by the cache: its expansion runs over cached tokens."""

    def body(m, x):
        both = heads(m.up(x), 2)
        return attend(m, heads(m.q(x), 2), both[..., :12], both[..., 12:])

    found = toy.matched(body, q=linear(24), up=linear(48))
    assert not claims(found, "context_mla")
    assert len(claims(found, "context_attention")) == 1


# sparse attention -------------------------------------------------------------------------------


@pytest.mark.slow
def test_sparse_indexer_and_core():
    """The indexer takes the score product, its weighting and the top-k; the core gets latent sizes and topk."""
    found = small_models.matched("deepseek_v32", "context")
    indexers, cores = claims(found, "sparse_indexer"), claims(found, "sparse_attention")
    assert len(indexers) == len(cores) == 2
    for claim in indexers:
        assert [claim.params[n] for n in ("num_heads", "head_dim", "topk")] == [5, 16, 12]
        assert (claim.dims["b"], claim.dims["s"], claim.dims["p"]) == (B, S, P)
    for claim in cores:
        assert [claim.params[n] for n in ("num_heads", "kv_lora_rank", "topk")] == [6, 20, 12]


def test_indices_without_a_top_k_have_no_indexer():
    """Indices that are not chosen by one top-k over scores: the indexer is refused, and says so."""

    def body(m, x):
        scores = x @ x.transpose(1, 2)
        return attend(m, heads(x, 2), heads(x, 2), heads(x, 2), indices=scores.argsort(-1)[..., :4])

    found = toy.matched(body)
    assert not claims(found, "sparse_indexer")
    assert "argsort" in {
        n.target.overloadpacket.__name__ for n in found.primitives
    } or "sort" in reasons(found)


# moe --------------------------------------------------------------------------------------------


def test_moe_with_its_routing():
    """The experts node, and what lies between the router's product and it; the router itself stays a gemm."""
    found = small_models.matched("qwen3_moe", "context")
    (claim,) = claims(found, "moe")
    names = ("hidden_size", "intermediate_size", "num_experts", "top_k", "gated", "bias")
    assert [claim.params[n] for n in names] == [48, 30, 9, 4, True, False]
    assert claim.dims["m"] == B * S
    assert any(n.target.overloadpacket.__name__ == "topk" for n in claim.nodes)
    router = [c for c in claims(found, "gemm") if c.params["n"] == 9]
    assert len(router) == 1


def test_a_top_k_without_experts_is_a_primitive():
    """Selection that no experts, no stack and no indexer follow is unknown."""
    found = toy.matched(lambda m, x: m.part(x).topk(3).values, part=linear(9))
    assert "no product with a stack of 9 expert matrices follows" in reasons(found)


def test_dense_experts():
    """Experts written as one product over all: as written they are bmm, and the routing is named."""
    found = small_models.matched("llama4", "context")
    assert not found.primitives
    stacks = [c for c in claims(found, "bmm") if c.params["shared_b"]]
    assert [(c.params["n"], c.params["k"]) for c in stacks] == [(116, 48), (48, 58)] * (
        len(stacks) // 2
    )
    assert "topk" in {c.params["functions"] for c in claims(found, "pointwise")}


# scans and convolutions -------------------------------------------------------------------------


def test_causal_conv1d():
    """Channels and kernel size come off the filter; in generation the state's positions are not work."""
    found = small_models.matched("nemotron_h", "generation")
    (claim,) = claims(found, "causal_conv1d")
    # 8 heads x 12 + 2 x 2 groups x 18 states
    assert [claim.params[n] for n in ("channels", "kernel_size", "bias")] == [168, 3, True]
    assert (claim.dims["b"], claim.dims["s"]) == (B, 1)


def test_a_filter_made_of_data_is_no_causal_conv1d():
    """A dynamic filter is refused."""

    def body(_m, x):
        return conv_boundary.causal_conv1d_fn(x.transpose(1, 2), x[0, :3].t())

    found = toy.matched(body)
    assert "the filter is not a parameter" in reasons(found)


def test_a_convolution_over_two_axes_is_a_primitive():
    """Convolutions other than those over time have no op."""

    def body(m, x):
        return m.part(x.transpose(1, 2)[:, :, None]).squeeze(2)

    conv = nn.Conv2d(WIDTH, WIDTH, (1, 3), padding=(0, 1), device="meta", dtype=torch.bfloat16)
    found = toy.matched(body, part=conv)
    assert "aten.conv2d" in reasons(found)


def test_mamba2():
    """Heads, groups and state size of the scan; the state is float32."""
    (claim,) = claims(small_models.matched("nemotron_h", "context"), "mamba2")
    names = (
        "d_inner",
        "d_state",
        "num_heads",
        "head_dim",
        "n_groups",
        "chunk_size",
        "phase",
        "state_dtype",
    )
    assert [claim.params[n] for n in names] == [96, 18, 8, 12, 2, 16, "context", "float32"]
    assert (claim.dims["b"], claim.dims["s"]) == (B, S)


def test_mamba1():
    """Channels, state size and the rank of dt."""
    (claim,) = claims(small_models.matched("jamba", "context"), "mamba1")[:1]
    assert [claim.params[n] for n in ("d_inner", "d_state", "dt_rank", "phase")] == [
        96,
        7,
        5,
        "context",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "gate", "sizes"),
    [("qwen3_next", "scalar", [3, 6, 7, 9]), ("kimi_linear", "channel", [5, 5, 8, 8])],
)
def test_gated_delta_rule(model, gate, sizes):
    """One decay per head (GDN) or per channel (KDA)."""
    names = ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
    for phase in ("context", "generation"):
        for claim in claims(small_models.matched(model, phase), "gated_delta_rule"):
            assert claim.params["gate"] == gate
            # key heads may have been repeated to the value heads before the call
            assert [claim.params[n] for n in names[1:]] == sizes[1:]
            assert claim.params["num_k_heads"] in (sizes[0], sizes[1])
            assert claim.params["phase"] == phase


def scan_written_out(_m, x):
    """A linear recurrence in Python: the sizes decide how many operators there are."""
    state = torch.zeros_like(x[:, 0])
    steps = []
    for t in range(3):
        state = state * torch.sigmoid(x[:, t]) + x[:, t]
        steps.append(state)
    return torch.stack(steps, 1)


def test_a_scan_outside_the_kernel_functions_is_no_scan_op():
    """Near miss of every scan matcher: the recurrence written out is memory-bound work, never a scan op."""
    found = toy.matched(scan_written_out)
    kinds = {c.kind for c in found.claims}
    assert kinds == {"embedding", "pointwise"}
    cumulative = toy.matched(lambda _m, x: x.cumsum(1))
    assert "no op computes aten.cumsum" in reasons(cumulative)


def test_the_scan_boundaries_stand_for_the_kernel_functions():
    """A function of the same name in a modeling file is what a boundary replaces."""
    names = set(boundaries._FUNCTIONS)
    assert {
        "mamba2_chunk_scan",
        "mamba_selective_scan",
        "torch_chunk_gated_delta_rule",
        "causal_conv1d_fn",
    } <= names
    assert boundaries._FUNCTIONS["mamba2_chunk_scan"] is mamba2_scan.mamba2_chunk_scan
    assert boundaries._FUNCTIONS["mamba_selective_scan"] is mamba1_scan.mamba_selective_scan
    assert boundaries._FUNCTIONS["torch_chunk_gated_delta_rule"] is delta_boundary.chunked
