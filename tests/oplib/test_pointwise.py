"""pointwise: its dims are its bytes; work is 0 by convention."""

import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op

BASE = {"functions": "add+rms_norm", "dtype": "bfloat16"}
ROWS = [({}, {"read": 100, "written": 50}, 0, 100 + 50), ({}, {"read": 0, "written": 7}, 0, 7)]


@pytest.mark.parametrize("functions", ["", "mul+add", "add+add", "add+"])
def test_functions_are_sorted_and_distinct(functions):
    """One cluster has one name."""
    with pytest.raises(InvalidInputError, match="functions of pointwise"):
        Op(
            op="pointwise",
            name="x",
            params={**BASE, "functions": functions},
            dims={"read": 1, "written": 1},
        )


@pytest.mark.parametrize(("changes", "dims", "flops", "moved"), ROWS)
def test_hand_sums(price, changes, dims, flops, moved):
    """FLOPs and bytes equal the sum written beside each row."""
    assert price("pointwise", {**BASE, **changes}, dims) == (flops, moved)
