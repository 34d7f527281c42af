"""bmm: every product of the batch reads both operands and writes its result."""

import pytest

BASE = {"n": 4, "k": 5, "dtype": "bfloat16"}
DIMS = {"batch": 2, "m": 3}
ROWS = [
    ({}, DIMS, 2 * 2 * 3 * 4 * 5, 2 * 2 * (15 + 20 + 12)),
    ({"dtype": "fp8", "shared_b": True}, DIMS, 240, 2 * (15 + 20 + 12 * 2)),
    # a parameter lies in 4 bits, an activation in 16
    ({"n": 2, "k": 8, "dtype": "mxfp4", "shared_b": True}, {"batch": 1, "m": 1}, 32, 16 + 8 + 4),
    ({"n": 2, "k": 8, "dtype": "mxfp4"}, {"batch": 1, "m": 1}, 32, 16 + 32 + 4),
]


def test_sizes_that_depend_on_the_lengths_are_dims(price):
    """n and k may be dims; the cost is the same."""
    params, dims = {"k": 5, "dtype": "bfloat16"}, {"batch": 2, "m": 3, "n": 4}
    assert price("bmm", params, dims) == (240, 188)
    assert price("bmm", {"dtype": "bfloat16"}, {**dims, "k": 5}) == (240, 188)


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("bmm", {**BASE, **changes}, dims) == (flops, moved)
