"""pointwise: its dims are its bytes; work is 0 by convention."""

import numpy
import pytest

from oplib.errors import InvalidInputError
from oplib.op import Op
from oplib.ops.pointwise import Pointwise

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


@pytest.mark.parametrize(
    ("functions", "read", "written", "expected"),
    [
        # x [64, 8192] in bfloat16 and the norm's weights; one tensor in, one out
        ("add+mean+mul+pow+rsqrt", 2 * 8192 * 65, 2 * 8192 * 64, {"width": 8192, "tensors": 2}),
        # the halves of a gate: no row is reduced
        ("mul+silu", 4 * 8192 * 64, 2 * 8192 * 64, {"width": 1, "tensors": 3}),
    ],
)
def test_what_bytes_imply(
    functions: str, read: int, written: int, expected: dict[str, int]
) -> None:
    """The width of reduced rows and the number of tensors, in arrays as in numbers."""
    kind = Pointwise()
    params = kind.complete({"functions": functions, "dtype": "bfloat16"})
    assert kind.imply(params, {"read": read, "written": written}) == expected
    assert set(kind.implied) == set(expected)
    dims = {"read": numpy.array([read, read]), "written": numpy.array([written, 2**20 + 2])}
    assert all(kind.imply(params, dims)[name][0] == expected[name] for name in expected)
