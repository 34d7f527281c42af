"""generation_attention: H=4, G=1, D=V=8, one new token after 7."""

import pytest

BASE = {
    "num_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 8,
    "v_head_dim": 8,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
DIMS = {"b": 3, "s": 1, "p": 7}
PAIR = 2 * 3 * 4 * (8 + 8)
NEW = 96 + 96 + 48 + 48  # q, output, new k and v in and out
ROWS = [
    ({}, DIMS, PAIR * 8, 2 * (NEW + 3 * 7 * 16)),
    ({"masking": "computed"}, DIMS, PAIR * 8, 2 * (NEW + 3 * 7 * 16)),
    ({"window": 4}, DIMS, PAIR * 4, 2 * (NEW + 3 * 3 * 16)),
    ({"window": 4, "masking": "computed"}, DIMS, PAIR * 4, 2 * (NEW + 3 * 3 * 16)),
    # position 7 is the 4th of its chunk; position 8 begins one
    ({"chunk": 4}, DIMS, PAIR * 4, 2 * (NEW + 3 * 3 * 16)),
    ({"chunk": 4}, {"b": 3, "s": 1, "p": 8}, PAIR * 1, 2 * NEW),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("generation_attention", {**BASE, **changes}, dims) == (flops, moved)
