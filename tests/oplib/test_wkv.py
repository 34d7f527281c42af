"""wkv: 8 channels."""

import pytest

BASE = {"channels": 8, "dtype": "bfloat16", "state_dtype": "float32", "phase": "context"}
GENERATION = {"phase": "generation"}
TOKEN, STATE, PARAMS = 2 * (8 + 8 + 8), 3 * 8 * 4, 2 * 8 * 4  # k, v, o; three states; w, u
ROWS = [
    ({}, {"b": 1, "s": 1}, 11 * 8, TOKEN + STATE + PARAMS),
    ({}, {"b": 2, "s": 5}, 11 * 2 * 5 * 8, 2 * (5 * TOKEN + STATE) + PARAMS),
    (GENERATION, {"b": 3, "s": 1}, 11 * 3 * 8, 3 * (TOKEN + 2 * STATE) + PARAMS),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("wkv", {**BASE, **changes}, dims) == (flops, moved)
