"""mamba1: 8 channels, state 4."""

import pytest

BASE = {
    "d_inner": 8,
    "d_state": 4,
    "dt_rank": 2,
    "dtype": "bfloat16",
    "state_dtype": "float32",
    "phase": "context",
}
GENERATION = {"phase": "generation"}
TOKEN = 2 * (8 + 8 + 8 + 4 + 4)  # x, dt, y, B, C
STATE, PARAMS = 32 * 4, (32 + 8 + 8) * 4  # A, D, bias of dt
ROWS = [
    ({}, {"b": 2, "s": 3}, 6 * 2 * 3 * 32, 2 * (3 * TOKEN + STATE) + PARAMS),
    (GENERATION, {"b": 2, "s": 1}, 6 * 2 * 32, 2 * (TOKEN + 2 * STATE) + PARAMS),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("mamba1", {**BASE, **changes}, dims) == (flops, moved)
