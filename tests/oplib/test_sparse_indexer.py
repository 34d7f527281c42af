"""sparse_indexer: 2 heads of 4 score 6, 7 and 8 keys."""

import pytest

BASE = {"num_heads": 2, "head_dim": 4, "topk": 4, "dtype": "bfloat16"}
DIMS = {"b": 2, "s": 3, "p": 5}
# q 2·3·2·4 at 2 bytes, w 2·3·2 at 4, keys in, out and cached 2·(3 + 3 + 5)·4 at 2, 12 indices
OTHER = 96 + 48 + 176 + 2 * 12 * 4
ROWS = [
    ({}, DIMS, 2 * 2 * 21 * 2 * (4 + 1), OTHER + 2 * 2 * 21 * 4),
    ({"masking": "computed"}, DIMS, 2 * 2 * 24 * 2 * (4 + 1), OTHER + 2 * 2 * 24 * 4),
    ({"weighted_sum": "elementwise"}, DIMS, 2 * 2 * 21 * 2 * 4, OTHER + 2 * 2 * 21 * 4),
    # no weights: w is not there to read
    ({"weighted_sum": "none"}, DIMS, 2 * 2 * 21 * 2 * 4, OTHER - 48 + 2 * 2 * 21 * 4),
    # without a limit all 21 are selected
    ({"topk": 0}, DIMS, 2 * 2 * 21 * 2 * (4 + 1), OTHER + 2 * 9 * 4 + 2 * 2 * 21 * 4),
    # blocks of 2: 3 + 3 + 4 of them seen; 4 after and 2 before, so 2 in, 2 out, 2 cached; 10 indices
    (
        {"ratio": 2},
        DIMS,
        2 * 2 * 10 * 2 * (4 + 1),
        96 + 48 + 2 * 6 * 8 + 2 * 10 * 4 + 2 * 2 * 10 * 4,
    ),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("sparse_indexer", {**BASE, **changes}, dims) == (flops, moved)
