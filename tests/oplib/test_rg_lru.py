"""rg_lru: 8 channels."""

import pytest

BASE = {"channels": 8, "dtype": "bfloat16", "state_dtype": "float32", "phase": "context"}
GENERATION = {"phase": "generation"}
TOKEN, STATE = 2 * (8 + 8 + 8), 8 * 4  # x, a, h; the state
ROWS = [
    ({}, {"b": 1, "s": 1}, 2 * 8, TOKEN + STATE),
    ({}, {"b": 2, "s": 5}, 2 * 2 * 5 * 8, 2 * (5 * TOKEN + STATE)),
    (GENERATION, {"b": 3, "s": 1}, 2 * 3 * 8, 3 * (TOKEN + 2 * STATE)),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("rg_lru", {**BASE, **changes}, dims) == (flops, moved)
