"""Attention over raw and compressed keys, and the indexer that selects compressed ones."""

from __future__ import annotations

import functools

import pytest
import sympy
import torch

from oplib.symbols import B, P, S
from tests.tracer import small_models, toy
from tests.tracer.older import angles_by_product
from tests.tracer.toy import claims, heads
from tracer import analysis
from tracer.boundaries import attention as attention_boundary
from tracer.match import matchers
from tracer.match.selection import selection_limit

NAME, SHORT = "deepseek_v4", "deepseek_v4 with blocks that divide"
#: Blocks that divide every length a trace is made at, so that two runs on numbers settle every size.
BLOCKS = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}
small_models.BROUGHT[SHORT] = {**small_models.SMALL[NAME], "compress_rates": BLOCKS}
every_rate = pytest.mark.parametrize(
    ("name", "sparse", "dense"), [(SHORT, 4, 8), pytest.param(NAME, 5, 12, marks=pytest.mark.slow)]
)


@every_rate
@pytest.mark.parametrize("phase", ["context", "generation"])
def test_both_kinds_of_compression(phase, name, sparse, dense):
    """Blocks and selection come off the graph; the window, the sinks and the shared keys off the call."""
    found = small_models.matched(name, phase)
    kept = {c.params["topk"]: c for c in claims(found, "compressed_attention")}
    assert {topk: claim.params["ratio"] for topk, claim in kept.items()} == {0: dense, 9: sparse}
    for claim in kept.values():
        names = ("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "window")
        assert [claim.params[n] for n in names] == [6, 1, 12, 12, 11]
        assert claim.params["shared_kv"]
        assert claim.params["sinks"]
        assert len(claim.parameters) == 1
        assert claim.dims == {"b": B, "s": 1 if phase == "generation" else S, "p": P}
    assert not found.primitives


@every_rate
def test_the_indexer_scores_compressed_keys(name, sparse, dense):
    """Its keys stand for as many tokens as those of the attention that it selects for."""
    found = claims(small_models.matched(name, "context"), "sparse_indexer")
    assert found
    for claim in found:
        names = ("num_heads", "head_dim", "topk", "ratio", "weighted_sum")
        assert [claim.params[n] for n in names] == [5, 16, 9, sparse, "elementwise"]
        assert claim.params["ratio"] != dense


def test_the_mask_of_a_selection_belongs_to_the_attention():
    """No pointwise work of (s, p + s) elements is left of it."""
    found = small_models.matched(SHORT, "context")
    scattered = [n for n in found.flow.nodes if "scatter" in str(n.target)]
    owners = {found.owner[n].kind for n in scattered}
    assert scattered
    assert owners == {"compressed_attention"}


@angles_by_product
@pytest.mark.parametrize("lowering", ["eager", "serving"])
@pytest.mark.parametrize("name", [SHORT, pytest.param(NAME, marks=pytest.mark.slow)])
def test_report_is_exact(name, lowering):
    """Weights, FLOPs and nodes add up, at workloads inside a block too."""
    found = small_models.report(name, lowering)
    assert found["conservation"]["exact"]
    assert found["conservation"]["nodes"]["primitive"] == 0


@every_rate
def test_what_a_token_adds_to_the_cache_is_no_rest_of_a_block(name, sparse, dense):
    """8·(7/5 + 3/12) bytes: blocks of 5 and of 12 tokens have no length in common with a power of two."""
    added = small_models.report(name)["kv_cache"]["bytes_per_token"]
    assert added == pytest.approx(8 * (7 / sparse + 3 / dense))


@functools.cache
def changed(**fields):
    """The report, as written, of a small model with other fields."""
    config = {**small_models.SMALL[NAME], "compress_rates": BLOCKS, **fields}
    return analysis.analyse(small_models.write(config), analysis.Options(lowering="eager"))


def topks(found, op):
    """What the ops of a kind select, in both phases."""
    phases = found["op_list"]["phases"].values()
    return {o["params"].get("topk", 0) for ops in phases for o in ops if o["op"] == op}


@pytest.mark.slow
@angles_by_product
@pytest.mark.parametrize(("topk", "claimed"), [(4096, 4096), (100_000, 100_000), (2**31, 0)])
def test_a_selection_wider_than_short_caches(topk, claimed):
    """Its width is a limit: where no length that is traced has so many keys, all are selected."""
    found = changed(index_topk=topk)
    assert found["situation"] == "S1-or-S2"
    assert found["conservation"]["exact"]
    assert topks(found, "sparse_indexer") == {claimed}
    assert topks(found, "compressed_attention") == {0, claimed}


def test_a_selection_of_every_key_there_is():
    """Over keys that are not compressed as well."""
    config = {**small_models.SMALL["deepseek_v32"], "index_topk": 2**31}
    found = analysis.analyse(small_models.write(config), analysis.Options(lowering="eager"))
    assert found["situation"] == "S1-or-S2"
    assert found["conservation"]["exact"]
    assert topks(found, "sparse_indexer") == topks(found, "sparse_attention") == {0}


def test_a_selection_that_grows_otherwise_is_refused():
    """Half of the keys is neither a number nor all of them."""
    assert selection_limit(P // 2, P) is None
    assert selection_limit(P + S, S + P) == 0
    assert selection_limit(sympy.Integer(9), P) == 9


@pytest.mark.slow
@angles_by_product
@pytest.mark.parametrize("window", [2, 3, 10**6])
def test_a_window_of_any_length(window):
    """One of two tokens keeps one, which is no constant: none is kept of none."""
    found = changed(sliding_window=window)
    assert found["situation"] == "S1-or-S2"
    assert found["conservation"]["exact"]
    assert f"Min({window - 1}, p)" in found["kv_cache"]["expression"]


def attend(x, extra, **options):
    """Attention over the tokens and `extra` keys (B,1,n,12) behind them."""
    key = torch.cat([heads(x, 2), extra], dim=2)
    module = torch.nn.Module()
    return attention_boundary.attention(module, heads(x, 2), key, key, None, **options)[0].flatten(
        2
    )


def test_keys_that_are_no_whole_blocks_are_refused():
    """A few learned keys behind the tokens are not compressed ones."""
    found = toy.matched(lambda _m, x: attend(x, heads(x[:, :2], 2)))
    assert not claims(found, "compressed_attention")
    assert "not the p cached and" in toy.reasons(found)


def test_a_soft_cap_is_refused():
    """What the op does not hold is not dropped."""
    found = small_models.matched(SHORT, "context")
    (claim, *_) = claims(found, "compressed_attention")
    node = claim.anchor
    arguments = node.args
    try:
        node.args = (*arguments[:-1], 5.0)
        refused = matchers()["compressed_attention"].match(found.flow, node, set())
    finally:
        node.args = arguments
    assert "a soft cap" in refused.reason
