"""context_attention: H=4, G=2, D=V=8 over b=2, s=3, p=5, so queries see 6, 7 and 8 keys."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op, kind

BASE = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "v_head_dim": 8,
    "dtype": "bfloat16",
    "kv_dtype": "bfloat16",
}
DIMS = {"b": 2, "s": 3, "p": 5}
PAIR = 2 * 2 * 4 * (8 + 8)  # 2 FLOPs, b, H, D + V
NEW = 2 * 3 * 4 * 8 + 2 * 3 * 4 * 8 + 2 * (2 * 3 * 2 * 16)  # q, output, new k and v in and out
ROWS = [
    ({}, DIMS, PAIR * (6 + 7 + 8), 2 * (NEW + 2 * 5 * 2 * 16)),
    ({"masking": "computed"}, DIMS, PAIR * 3 * 8, 2 * (NEW + 2 * 5 * 2 * 16)),
    ({"causal": False}, DIMS, PAIR * 3 * 8, 2 * (NEW + 2 * 5 * 2 * 16)),
    ({}, {"b": 2, "s": 3, "p": 0}, PAIR * (1 + 2 + 3), 2 * NEW),
    # each query sees 4 keys; 3 cached ones are left
    ({"window": 4}, DIMS, PAIR * (4 + 4 + 4), 2 * (NEW + 2 * 3 * 2 * 16)),
    ({"window": 4, "masking": "computed"}, DIMS, PAIR * 3 * 6, 2 * (NEW + 2 * 3 * 2 * 16)),
    ({"window": 7}, DIMS, PAIR * (6 + 7 + 7), 2 * (NEW + 2 * 5 * 2 * 16)),
    # positions 5, 6, 7 are the 2nd to 4th of their chunk; position 4 is its one cached token
    ({"chunk": 4}, DIMS, PAIR * (2 + 3 + 4), 2 * (NEW + 2 * 1 * 2 * 16)),
    ({"chunk": 4, "masking": "computed"}, DIMS, PAIR * 3 * 6, 2 * (NEW + 2 * 3 * 2 * 16)),
    ({"sinks": True}, DIMS, PAIR * 21, 2 * (NEW + 320 + 4)),
    ({"softcap": 50.0}, DIMS, PAIR * 21, 2 * (NEW + 320)),
    # q, output and new k, v at 2 bytes; k, v to the cache and from it at 1
    ({"kv_dtype": "fp8"}, DIMS, PAIR * 21, 2 * (192 + 192 + 192) + 192 + 320),
    ({"v_head_dim": 4}, DIMS, 2 * 2 * 4 * 12 * 21, 2 * (192 + 96 + 2 * 144 + 240)),
]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "4 query heads over 3"),
        ({"window": 4, "chunk": 4}, "window 4 and"),
        ({"cache_limit": 2, "chunk": 4}, "cache_limit 2 and chunk 4"),
    ],
)
def test_parameters_that_do_not_fit_together(changes, message):
    """A wrong combination is refused with its values."""
    with pytest.raises(InvalidInputError, match=message):
        Op(op="context_attention", name="x", params={**BASE, **changes}, dims=DIMS)


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("context_attention", {**BASE, **changes}, dims) == (flops, moved)


@pytest.mark.parametrize(
    ("changes", "dims", "regime"),
    [
        ({}, {"s": 4, "p": 4}, 0),  # without a window the cached tokens alone tell
        ({"window": 4}, {"s": 4, "p": 0}, 0),
        ({"window": 4}, {"s": 5, "p": 0}, 1),
        ({"window": 4}, {"s": 2, "p": 1}, 1),
        ({"window": 4}, {"s": 1, "p": 9}, 0),  # a lone token sees what the cache has
        ({"chunk": 4}, {"s": 5, "p": 0}, 1),
        ({"chunk": 4}, {"s": 4, "p": 0}, 0),
    ],
)
def test_regime_of_the_mask(changes, dims, regime):
    """1 where a window or chunk makes the mask of several tokens more than the causal one of a fresh prompt."""
    kind_of = kind("context_attention")
    assert kind_of.regime(kind_of.complete({**BASE, **changes}), {"b": 1, **dims}) == regime
