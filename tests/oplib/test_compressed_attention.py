"""compressed_attention: 2 heads over one shared key of 4, a window of 3 tokens, blocks of 2."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op

BASE = {
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 4,
    "v_head_dim": 4,
    "shared_kv": True,
    "window": 3,
    "ratio": 2,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
DIMS = {"b": 2, "s": 3, "p": 6}
# 7th, 8th, 9th token: 3 + 3 + 3 in the window, 3 + 4 + 4 blocks; at hand 3 new, 2 cached, 4 blocks
SEEN, BLOCKS, ALL = 9, 11, 3 * (3 + 2 + 4)
PAIR = 2 * 2 * (4 + 4)
# per sequence: q and o 3·(8 + 8), new keys in and out 3·(4 + 4), cached 2·4, blocks 4·4; all at 2 bytes
MOVED = 2 * 2 * (48 + 24 + 8 + 16)
ROWS = [
    ({}, DIMS, 2 * PAIR * (SEEN + BLOCKS), MOVED),
    ({"masking": "computed"}, DIMS, 2 * PAIR * ALL, MOVED),
    # two blocks a query: 2 + 2 + 2, indices 6 at 4 bytes, and no more than the 4 blocks there are
    ({"topk": 2}, DIMS, 2 * PAIR * (SEEN + 6), MOVED + 2 * 6 * 4),
    # one block a query: 3 of the 4 are read
    ({"topk": 1}, DIMS, 2 * PAIR * (SEEN + 3), MOVED - 2 * 2 * 4 + 2 * 3 * 4),
    ({"topk": 1, "masking": "computed"}, DIMS, 2 * PAIR * ALL, MOVED + 2 * 3 * 4),
    ({"sinks": True}, DIMS, 2 * PAIR * (SEEN + BLOCKS), MOVED + 2 * 2),
    # values of their own: 4 more elements per key, in, out, cached and compressed
    ({"shared_kv": False}, DIMS, 2 * PAIR * (SEEN + BLOCKS), MOVED + 2 * 2 * (24 + 8 + 16)),
    # no window: 7 + 8 + 9 tokens, 6 cached
    ({"window": 0}, DIMS, 2 * PAIR * (24 + BLOCKS), MOVED + 2 * 2 * 4 * 4),
    # a fresh prompt: 1 + 2 + 3 tokens, 0 + 1 + 1 blocks, one block read
    ({}, {"b": 1, "s": 3, "p": 0}, PAIR * (6 + 2), 2 * (48 + 24 + 4)),
]


@pytest.mark.parametrize("changes", [{"num_kv_heads": 3}, {"v_head_dim": 6}, {"ratio": 1}])
def test_sizes_fit_together(changes):
    """Key heads divide query heads, shared keys and values have one size, a block is more than a token."""
    with pytest.raises(InvalidInputError, match="compressed_attention"):
        Op(op="compressed_attention", name="x", params={**BASE, **changes}, dims=DIMS)


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("compressed_attention", {**BASE, **changes}, dims) == (flops, moved)
