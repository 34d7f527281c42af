"""conv1d: 6 channels in, 4 out, filters of 3 positions, 2 groups."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op

BASE = {"in_channels": 6, "out_channels": 4, "kernel_size": 3, "groups": 2, "dtype": "bfloat16"}
DEPTHWISE = {"in_channels": 4, "groups": 4}
ROWS = [
    # 4 x 3 x 3 filter elements per position; s + 2 positions of 6 read, s of 4 written
    ({}, {"b": 1, "s": 1}, 2 * 36, 2 * (18 + 4 + 36)),
    ({}, {"b": 2, "s": 5}, 2 * 2 * 5 * 36, 2 * (2 * (42 + 20) + 36)),
    # 3 positions, 2 apart: s + 4 read
    ({"dilation": 2}, {"b": 2, "s": 5}, 2 * 2 * 5 * 36, 2 * (2 * (54 + 20) + 36)),
    ({"bias": True}, {"b": 1, "s": 1}, 2 * 36, 2 * (18 + 4 + 36 + 4)),
    (DEPTHWISE, {"b": 1, "s": 2}, 2 * 2 * 12, 2 * (16 + 8 + 12)),
]


def test_groups_divide_the_channels():
    """Neither side may be cut unevenly."""
    with pytest.raises(InvalidInputError, match="conv1d has"):
        Op(op="conv1d", name="x", params={**BASE, "groups": 4}, dims={"b": 1, "s": 1})


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("conv1d", {**BASE, **changes}, dims) == (flops, moved)
