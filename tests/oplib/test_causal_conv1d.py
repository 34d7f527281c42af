"""causal_conv1d: 8 channels, 4 taps; the state has 3 columns per sequence."""

import pytest

BASE = {"channels": 8, "kernel_size": 4, "dtype": "bfloat16"}
ROWS = [
    ({}, {"b": 2, "s": 3}, 2 * 2 * 3 * 8 * 4, 2 * (48 + 48 + 2 * 2 * 8 * 3 + 8 * 4)),
    ({"bias": True}, {"b": 2, "s": 3}, 384, 2 * (48 + 48 + 96 + 8 * 5)),
    ({"activation": "silu"}, {"b": 2, "s": 1}, 128, 2 * (16 + 16 + 96 + 32)),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("causal_conv1d", {**BASE, **changes}, dims) == (flops, moved)
