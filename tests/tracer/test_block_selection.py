"""Sparse attention over blocks of keys that a loop over the queries selects: the block, its mathematics, its ops."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap

import pytest
import torch

from oplib.symbols import B, P, S
from tests.tracer import shrunk, small_models
from tests.tracer.toy import claims
from tracer import boundaries
from tracer.boundaries.block_selection import _selection, written_out
from tracer.match import matchers

NAME = "qwen4_exp_text"
if NAME not in shrunk.AVAILABLE:
    pytest.skip(f"this transformers has no {NAME}", allow_module_level=True)
small_models.BROUGHT[NAME] = shrunk.shrunk(NAME)  # 3 heads of 16 select 2 blocks of 4 tokens
MODELING = importlib.import_module("transformers.models.qwen4_exp.modeling_qwen4_exp")
INDEXER = MODELING.Qwen4ExpTextQSAIndexer


def forward_of(text: str) -> ast.FunctionDef:
    (function,) = ast.parse(textwrap.dedent(text)).body
    assert isinstance(function, ast.FunctionDef)
    return function


def test_the_block_is_the_loop():
    """Its arguments are what the loop reads, under the names that the model gives them."""
    block = _selection(forward_of(inspect.getsource(INDEXER.forward)))
    assert block is not None
    assert isinstance(block.statement, ast.For)
    assert block.assigned == ("selected_token_indices",)
    assert block.arguments == (
        *("q", "raw_keys", "full_cos", "full_sin", "self.k_layernorm", "apply_rotary_pos_emb"),
        *("self.compress_ratio", "self.block_topk"),
    )


@pytest.mark.parametrize("missing", [".topk(", ".nonzero(", ".mean(", "torch.matmul("])
def test_a_loop_of_another_form_is_left_alone(missing):
    """What no scores, no selection or no blocks are made of is another computation."""
    text = inspect.getsource(INDEXER.forward).replace(missing, missing.replace("(", "_other("))
    assert _selection(forward_of(text)) is None


class _Config:
    indexer_n_heads, indexer_kv_heads, indexer_head_dim = 6, 1, 16
    indexer_budget, indexer_compress_ratio = 8, 4
    hidden_size, rms_norm_eps = 24, 1e-6


@pytest.mark.parametrize(("cached", "new"), [(0, 1), (0, 3), (0, 4), (0, 23), (13, 1), (15, 6)])
@torch.no_grad()
def test_written_out_selects_what_the_model_selects(cached, new):
    """The same tokens as the model's own loop, at lengths within a block, at its end and beyond the budget."""
    torch.manual_seed(cached + new)
    indexer = INDEXER(_Config(), layer_idx=0)
    indexer.k_layernorm.weight.normal_()
    tokens = cached + new
    hidden = torch.randn(2, tokens, 24)
    angles = torch.rand(2, tokens, 8)
    mask = torch.ones(new, tokens, dtype=torch.bool).tril(cached).expand(2, 1, -1, -1)

    class Cache:
        def update_indexer(self, _keys, _layer):
            return indexer.index_qk_proj(hidden)[..., 6 * 16 :]

    def run():
        return indexer(hidden[:, cached:], (angles.cos(), angles.sin()), mask, Cache())

    expected = run()
    with boundaries.bind(indexer, written_out=True):
        found = run()
    assert torch.equal(found, expected)
    seen = range(cached + 1, tokens + 1)
    assert expected.sum(-1).tolist() == [[[min(n // 4, 2) * 4 + n % 4 for n in seen]]] * 2


@pytest.mark.parametrize("phase", ["context", "generation"])
def test_the_ops(phase):
    """An indexer over blocks, without weights of its heads, and attention to the blocks and the rest behind them."""
    found = small_models.matched(NAME, phase)
    assert not found.primitives
    dims = {"b": B, "s": 1 if phase == "generation" else S, "p": P}
    indexers, cores = claims(found, "sparse_indexer"), claims(found, "sparse_attention")
    assert len(indexers) == len(cores) == 1
    names = ("num_heads", "head_dim", "topk", "ratio", "weighted_sum", "masking")
    assert [indexers[0].params[n] for n in names] == [3, 16, 2, 4, "none", "skipped"]
    names = ("topk", "block", "tail", "index_source", "num_heads", "num_kv_heads", "head_dim")
    assert [cores[0].params[n] for n in names] == [8, 4, True, "indexer", 4, 2, 16]
    assert indexers[0].dims == cores[0].dims == dims


def test_keys_are_pooled_once():
    """As many means as there are complete blocks of cached and new tokens together."""
    for phase, tokens in (("context", P + S), ("generation", P + 1)):
        found = small_models.matched(NAME, phase)
        (node,) = [n for n in found.flow.nodes if "block_selection" in str(n.target)]
        blocks = found.flow.shape(node.args[1])[1]
        for p, s in ((345, 78), (130, 1001), (127, 3)):
            at = {P: p, S: s}
            assert blocks.subs(at) == tokens.subs(at) // 4


def test_the_mask_of_a_selection_belongs_to_the_attention():
    """No pointwise work of (s, p + s) elements is left of it."""
    found = small_models.matched(NAME, "context")
    scattered = [n for n in found.flow.nodes if "scatter" in str(n.target)]
    assert {found.owner[n].kind for n in scattered} == {"sparse_attention"}


def test_a_selection_that_nothing_takes_is_a_primitive():
    """Without its matcher the node is named, and not free."""
    found = small_models.matched(NAME, "context", without=("block_selection",))
    assert ["block_selection" in str(n.target) for n in found.primitives] == [True]
    assert matchers()["block_selection"].operators == {"trace_model.block_selection"}


@pytest.mark.parametrize("lowering", ["eager", "serving"])
def test_report_is_exact(lowering):
    """Weights, FLOPs and nodes add up; hashed ids, cached ones among them, are no work."""
    found = small_models.report(NAME, lowering)
    assert found["conservation"]["exact"]
    assert found["conservation"]["nodes"]["primitive"] == 0


def test_positions_are_kept_once():
    """The cache of one layer holds positions for all: 24 B per token of the whole model, next to keys and values."""
    layers = 2
    keys = 2 * (2 * 2 * 16 + 16)
    assert small_models.report(NAME)["kv_cache"]["bytes_per_token"] == layers * keys + 24


def test_sequences_shorter_than_a_block_select_nothing():
    """No complete block: the tail alone."""
    query, keys, angles = torch.rand(1, 3, 2, 8), torch.rand(1, 3, 8), torch.rand(1, 3, 4)
    found = written_out(
        query, keys, angles.cos(), angles.sin(), torch.nn.Identity(), MODELING.apply_rotary_pos_emb, 4, 2
    )  # fmt: skip
    assert [sorted(t for t in row if t >= 0) for row in found[0].tolist()] == [
        [0],
        [0, 1],
        [0, 1, 2],
    ]
