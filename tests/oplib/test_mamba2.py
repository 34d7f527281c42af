"""mamba2: 2 heads of 4 channels, state 4, one group, chunks of 2."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op

BASE = {
    "d_inner": 8,
    "d_state": 4,
    "num_heads": 2,
    "head_dim": 4,
    "n_groups": 1,
    "chunk_size": 2,
    "dtype": "bfloat16",
    "state_dtype": "float32",
    "phase": "context",
}
GENERATION = {"phase": "generation"}
TOKEN = 2 * (8 + 8 + 4 + 4 + 2)  # x, y, B, C, dt
STATE, PARAMS = 32 * 4, 3 * 2 * 4
ROWS = [
    # C·Bᵀ, its product with x, chunk states, readout, recurrence over 2 chunks
    ({}, {"b": 1, "s": 4}, 64 + 128 + 256 + 256 + 2 * 2 * 32, 4 * TOKEN + STATE + PARAMS),
    ({}, {"b": 1, "s": 1}, 8 + 16 + 64 + 64 + 2 * 32, TOKEN + STATE + PARAMS),
    ({}, {"b": 2, "s": 5}, 2 * (80 + 160 + 320 + 320 + 192), 2 * (5 * TOKEN + STATE) + PARAMS),
    (GENERATION, {"b": 3, "s": 1}, 5 * 3 * 32, 3 * (TOKEN + 2 * STATE) + PARAMS),
]


@pytest.mark.parametrize("changes", [{"d_inner": 9}, {"n_groups": 3}])
def test_sizes_fit_together(changes):
    """Heads make up d_inner, groups divide heads."""
    with pytest.raises(InvalidInputError, match="mamba2 has"):
        Op(op="mamba2", name="x", params={**BASE, **changes}, dims={"b": 1, "s": 1})


@pytest.mark.parametrize(
    ("changes", "s", "worked"), [({}, 1, 1), ({}, 2, 2), ({}, 5, 6), (GENERATION, 5, 5)]
)
def test_a_prompt_beyond_a_chunk_fills_its_last_one(changes, s, worked):
    """Chunks of 2: 5 tokens of a prompt are worked through as 6."""
    op = Op(op="mamba2", name="x", params={**BASE, **changes}, dims={"b": 3, "s": s})
    assert op.kind.worked(op.params, {"b": 3, "s": s}) == {"b": 3, "s": worked}


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("mamba2", {**BASE, **changes}, dims) == (flops, moved)
