"""mlstm: 2 heads, keys of 4, values of 6, chunks of 2."""

import pytest

BASE = {
    "num_heads": 2,
    "head_k_dim": 4,
    "head_v_dim": 6,
    "chunk_size": 2,
    "dtype": "bfloat16",
    "state_dtype": "float32",
    "phase": "context",
}
GENERATION = {"phase": "generation"}
TOKEN, STATE = 2 * 2 * (4 + 4 + 6 + 6 + 2), 2 * (24 + 4 + 1) * 4  # q, k, v, h, gates; C, n, max
ROWS = [
    # q·kᵀ, its product with v, q·C, kᵀ·v, q·n, recurrence over 2 chunks
    ({}, {"b": 1, "s": 4}, 128 + 192 + 384 + 384 + 64 + 2 * 2 * 48, 4 * TOKEN + STATE),
    ({}, {"b": 1, "s": 1}, 16 + 24 + 96 + 96 + 16 + 2 * 48, TOKEN + STATE),
    ({}, {"b": 3, "s": 5}, 3 * (160 + 240 + 480 + 480 + 80 + 2 * 3 * 48), 3 * (5 * TOKEN + STATE)),
    (GENERATION, {"b": 3, "s": 1}, 5 * 3 * 2 * 4 * 7, 3 * (TOKEN + 2 * STATE)),
]


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("mlstm", {**BASE, **changes}, dims) == (flops, moved)
