"""embedding: per id, 8 bytes, a row read and a row written; no work."""

import pytest

BASE = {"num_embeddings": 10, "embedding_dim": 4, "dtype": "bfloat16"}
ROWS = [
    ({}, {"m": 3}, 0, 3 * (8 + 4 * 2 + 4 * 2)),
    ({"tied": True}, {"m": 3}, 0, 72),
    ({"dtype": "int8_wo"}, {"m": 3}, 0, 3 * (8 + 4 + 4 * 2)),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("embedding", {**BASE, **changes}, dims) == (flops, moved)
