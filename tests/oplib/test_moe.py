"""moe: 2 of 4 experts of 4 x 8; one token touches 2 experts, two touch 3 in expectation."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op, kind

BASE = {
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_experts": 4,
    "top_k": 2,
    "dtype": "bfloat16",
}
ONE, TWO = {"m": 1}, {"m": 2}
TOKEN = 2 * 4 * 2 + 2 * 8 * (2 + 2) + 2 * 8  # in and out, between the products, routing
ROWS = [
    ({}, ONE, 2 * 1 * 2 * 32 * 3, 2 * (3 * 32 * 2) + TOKEN),
    ({}, TWO, 2 * 2 * 2 * 32 * 3, 3 * (3 * 32 * 2) + 2 * TOKEN),
    ({"gated": False}, ONE, 2 * 1 * 2 * 32 * 2, 2 * (2 * 32 * 2) + TOKEN),
    ({"bias": True}, ONE, 384, 2 * (192 + (8 + 8 + 4) * 2) + TOKEN),
    ({"distribution": "power_law_1.2"}, ONE, 384, 2 * 192 + TOKEN),
    ({"top_k": 4}, ONE, 768, 4 * 192 + (16 + 4 * 8 * 4 + 4 * 8)),
    # one scale of 4 bytes per projection; in 1 + out 2 bytes, between written at 2, read at 1
    ({"dtype": "fp8"}, ONE, 384, 2 * (3 * (32 + 4)) + 4 * 3 + 16 * 3 + 16),
    # with 64 tokens every expert is touched to 16 digits
    ({}, {"m": 64}, 384 * 64, 4 * 192 + 64 * TOKEN),
]


def test_experts_divided_over_gpus():
    """Two GPUs: half of the pairs and of the experts read; 3/4 of tokens have one of their two experts here."""
    moe = kind("moe")
    params = moe.complete({**BASE, "ep_size": 2})
    assert moe.flops(params, {"m": 2}) == 768 / 2
    token = 2 * 4 * 2 * 3 / 4 + (2 * 8 * (2 + 2) + 2 * 8) / 2
    assert moe.bytes(params, {"m": 2}) == 3 * (3 * 32 * 2) / 2 + 2 * token


def test_experts_divide_evenly():
    with pytest.raises(InvalidInputError, match="4 experts on 3 GPUs"):
        Op(op="moe", name="x", params={**BASE, "ep_size": 3}, dims={"m": 1})


def test_top_k_is_at_most_num_experts():
    """A token cannot choose an expert twice."""
    with pytest.raises(InvalidInputError, match="top_k 5 of 4 experts"):
        Op(op="moe", name="x", params={**BASE, "top_k": 5}, dims={"m": 1})


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("moe", {**BASE, **changes}, dims) == (flops, moved)
