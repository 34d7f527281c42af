"""Indexing by masks without values: all is selected, unless a choice between scores has made the mask."""

import pytest
import torch

from oplib.symbols import B, S
from tests.tracer import toy
from tracer.sizes import LONG
from tracer.trace import capture, trace


def sequences_of_a_language(m, x):
    """A linear layer for the sequences that a mask selects."""
    languages = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
    mask = languages == 0
    out = torch.zeros_like(x)
    out[mask] = m.adapter(x[mask])
    return out


def tokens_of_an_expert(m, x):
    """A linear layer for the tokens whose first choice it is."""
    chosen = m.router(x).argmax(-1)
    mask = chosen == 0
    out = torch.zeros_like(x)
    out[mask] = m.expert(x[mask])
    return out


def test_a_mask_selects_all():
    """The layer runs on every token, and the line that asked is known."""
    found = toy.matched(sequences_of_a_language, adapter=toy.linear(toy.WIDTH))
    (claim,) = toy.claims(found, "gemm")
    assert claim.dims == {"m": B * S}


def test_a_mask_of_chosen_tokens_is_an_error():
    """How many tokens an expert gets has no answer, so none is given."""
    model = toy.Toy(tokens_of_an_expert, router=toy.linear(4), expert=toy.linear(toy.WIDTH)).eval()
    with pytest.raises(Exception, match="nonzero"):
        capture(model)


def tokens_above_a_threshold(_m, x):
    """The tokens whose score is large."""
    return x[x.sum(-1) > 0.5]


def test_a_threshold_on_scores_is_a_choice():
    """How many tokens lie above it has no answer."""
    with pytest.raises(Exception, match="nonzero"):
        capture(toy.Toy(tokens_above_a_threshold).eval())


def test_a_branch_of_one_length_is_an_error():
    """A graph that holds at one length says nothing of others."""

    def body(_m, x):
        return x * 2 if x.shape[1] == LONG["s"] else x

    model = toy.Toy(body).eval()
    with pytest.raises(Exception, match="alone"):
        trace(model, capture(model), "context", symbolic=True)


@pytest.mark.parametrize(
    "kind", [torch.nn.GRU, pytest.param(torch.nn.LSTM, marks=pytest.mark.slow)]
)
def test_a_cell_per_token_is_one_error(kind):
    """A recurrence that torch runs token by token is named with its line, at once."""
    parts = {"device": "meta", "dtype": torch.bfloat16, "batch_first": True}
    with pytest.raises(Exception, match=r"test_masks.py:\d+: it loops in Python, over the tokens"):
        toy.matched(lambda m, x: m.cell(x)[0], cell=kind(toy.WIDTH, toy.WIDTH, **parts))
