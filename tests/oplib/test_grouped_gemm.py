"""grouped_gemm: rows once, and the matrices of groups that a row is in."""

import pytest

BASE = {"n": 3, "k": 5, "groups": 2, "dtype": "bfloat16"}
ROWS = [
    # one row reads one matrix of two
    ({"m": 1}, 2 * 15, 2 * (15 + 5 + 3)),
    # two rows: 2·(1 - 1/4) matrices
    ({"m": 2}, 2 * 2 * 15, 2 * (15 * 1.5 + 2 * (5 + 3))),
]


@pytest.mark.parametrize(("dims", "flops", "moved"), ROWS)
def test_hand_sums(price, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("grouped_gemm", BASE, dims) == (flops, moved)
