"""sparse_attention: at most 4 selected keys; latent heads as in test_context_mla."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op

BASE = {
    "num_heads": 2,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "absorbed": True,
    "topk": 4,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
PLAIN = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "kv_lora_rank": 0,
    "absorbed": False,
}
DIMS = {"b": 2, "s": 3, "p": 5}
ONE = {"b": 2, "s": 1, "p": 7}
ROWS = [
    # 3 queries of 4 keys may want all 5 cached ones: 240 + 192 + 120 + 120 + 200 elements
    ({}, DIMS, 2 * 2 * 2 * 12 * 36, 2 * 872 + 2 * 12 * 4),
    ({"causal": False}, DIMS, 2 * 2 * 2 * 12 * 36, 2 * 872 + 2 * 12 * 4),
    ({"masking": "computed"}, DIMS, 2 * 2 * 2 * 24 * 36, 2 * 872 + 2 * 12 * 4),
    # one query of 4 keys, itself among them, reads 3 cached ones of 7
    ({}, ONE, 2 * 2 * 2 * 4 * 36, 2 * (80 + 64 + 40 + 40 + 2 * 3 * 20) + 2 * 4 * 4),
    # topk above the length selects nothing away
    ({"topk": 64}, ONE, 2 * 2 * 2 * 8 * 36, 2 * (80 + 64 + 40 + 40 + 280) + 2 * 8 * 4),
    # no rotary part: 192 + 192 + 96 + 96 + 160 elements
    ({"qk_rope_head_dim": 0}, DIMS, 2 * 2 * 2 * 12 * 32, 2 * 736 + 2 * 12 * 4),
    # blocks of 2, 2 of them, over 6, 7 and 8 tokens: 4, 4 and 4 keys in blocks, 0, 1 and 0 behind the last
    ({"block": 2}, DIMS, 2 * 2 * 2 * 12 * 36, 2 * 872 + 2 * 12 * 4),
    ({"block": 2, "tail": True}, DIMS, 2 * 2 * 2 * 13 * 36, 2 * 872 + 2 * 13 * 4),
    # blocks of 8: the first query after 5 tokens has none, and sees the tail; so do all but the last
    ({"topk": 8, "block": 8}, DIMS, 2 * 2 * 2 * 8 * 36, 2 * 872 + 2 * 8 * 4),
    ({"topk": 8, "block": 8, "tail": True}, DIMS, 2 * 2 * 2 * 21 * 36, 2 * 872 + 2 * 21 * 4),
    # one query of 2 blocks of 2 reads 4 of 8 cached keys and itself behind them
    (
        {"block": 2, "tail": True},
        {"b": 2, "s": 1, "p": 8},
        2 * 2 * 2 * 5 * 36,
        2 * (80 + 64 + 40 + 40 + 2 * 5 * 20) + 2 * 5 * 4,
    ),
    # and so does none: all 8 keys when one comes, 6, 7 and 8 or all 8 of each when three come
    ({"topk": 0}, ONE, 2 * 2 * 2 * 8 * 36, 2 * (80 + 64 + 40 + 40 + 280) + 2 * 8 * 4),
    ({"topk": 0}, DIMS, 2 * 2 * 2 * 21 * 36, 2 * 872 + 2 * 21 * 4),
    ({"topk": 0, "causal": False}, DIMS, 2 * 2 * 2 * 24 * 36, 2 * 872 + 2 * 24 * 4),
    (PLAIN, {"b": 1, "s": 1, "p": 7}, 2 * 4 * 4 * 16, 2 * (32 + 32 + 32 + 32 + 96) + 16),
]


def test_heads_need_their_sizes():
    """Neither form of heads is guessed."""
    params = {"num_heads": 4, "topk": 4, "dtype": "bfloat16", "kv_dtype": "bfloat16"}
    with pytest.raises(InvalidInputError, match="has num_kv_heads, head_dim, v_head_dim 0"):
        Op(op="sparse_attention", name="x", params=params, dims=DIMS)


@pytest.mark.parametrize("changes", [{"block": 3}, {"block": 2, "causal": False}])
def test_blocks_are_whole_and_causal(changes):
    """4 keys are no whole blocks of 3; what complete blocks a query sees follows from its place."""
    with pytest.raises(InvalidInputError, match="selects 4 keys in blocks of"):
        Op(op="sparse_attention", name="x", params={**BASE, **changes}, dims=DIMS)


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("sparse_attention", {**BASE, **changes}, dims) == (flops, moved)
