"""gated_delta_rule: 1 key head of 4, 2 value heads of 8, chunks of 4."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op

BASE = {
    "num_k_heads": 1,
    "num_v_heads": 2,
    "head_k_dim": 4,
    "head_v_dim": 8,
    "chunk_size": 4,
    "dtype": "bfloat16",
    "state_dtype": "float32",
    "phase": "context",
}
GENERATION = {"phase": "generation"}
TOKEN = 2 * (4 + 4 + 16 + 16 + 2)  # q, k, v, o, beta
STATE = 2 * 32 * 4
ROWS = [
    # within chunks 2·8·4·(12 + 16), with the state 6·8·32, two inverses of 4·3·2/6 multiply-adds
    ({}, {"b": 1, "s": 8}, 2 * (1792 + 1536 + 2 * 8), 8 * (TOKEN + 2 * 4) + STATE),
    ({"gate": "channel"}, {"b": 1, "s": 8}, 6688, 8 * (TOKEN + 2 * 4 * 4) + STATE),
    # a prompt below the chunk: one inverse of 3·2·1/6
    ({"chunk_size": 64}, {"b": 1, "s": 3}, 2 * (504 + 576 + 2), 3 * (TOKEN + 8) + STATE),
    (GENERATION, {"b": 3, "s": 1}, 7 * 3 * 2 * 32, 3 * (TOKEN + 8 + 2 * STATE)),
]


def test_value_heads_share_key_heads_evenly():
    """A wrong combination is refused with its values."""
    with pytest.raises(InvalidInputError, match="2 value heads over 3"):
        Op(
            op="gated_delta_rule",
            name="x",
            params={**BASE, "num_k_heads": 3},
            dims={"b": 1, "s": 1},
        )


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("gated_delta_rule", {**BASE, **changes}, dims) == (flops, moved)
