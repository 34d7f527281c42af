"""The form of a cluster: tensors, rows and a table that its bytes tell of."""

from __future__ import annotations

import pytest

from oplib.cluster_form import Form, form

NORM, TURN, TURNED = "add+mean+mul+pow+rsqrt", "add+cat+mul+neg", "add+cat+mean+mul+neg+pow+rsqrt"


@pytest.mark.parametrize(
    ("functions", "read", "written", "expected"),
    [
        # x [64, 8192] and a row of weights
        (NORM, 8192 * 65, 8192 * 64, (1, 1, 64, 8192, 0)),
        # x and the residual, both written again: as many bytes as of one tensor of twice the rows
        (NORM, 8192 * 129, 8192 * 128, (1, 1, 128, 8192, 0)),
        # three in and two out are no table of half a tensor
        (NORM, 8192 * 193, 8192 * 128, (3, 2, 64, 8192, 0)),
        ("add", 5000 * 3, 5000, (3, 1, 2, 2500, 0)),
        ("mul+silu", 2 * 14336, 14336, (2, 1, 4, 3584, 0)),
        # q [256, 32 heads, 128], cos and sin [256, 128]: one tensor and not 17 of a sixteenth
        (TURN, 256 * (4096 + 256), 256 * 4096, (1, 1, 256, 4096, 256 * 256)),
        # k [256, 8 heads, 128], cos and sin of a quarter
        (TURN, 256 * (1024 + 256), 256 * 1024, (1, 1, 64, 4096, 256 * 256)),
        # a norm of each head of 128 besides
        (TURNED, 256 * (1024 + 256) + 128, 256 * 1024, (1, 1, 2048, 128, 256 * 256)),
        # one position: the table is a row or two, and takes no time
        (TURNED, 256 * 1024 + 256 + 128, 256 * 1024, (1, 1, 2048, 128, 0)),
        # a sum of eight experts' outputs and a shared one's
        ("add+sum", 9 * 40960, 40960, (9, 1, 10, 4096, 0)),
    ],
)  # fmt: skip
def test_tensors(
    functions: str, read: int, written: int, expected: tuple[int, int, int, int, int]
) -> None:
    """Few tensors of whole rows; what is read beside is a row of weights, or a table where that is more."""
    params = {"functions": functions, "dtype": "bfloat16"}
    found = form(params, {"read": 2 * read, "written": 2 * written})
    assert (found.read, found.written, found.rows, found.width, found.table) == expected
    assert found.scaled == ("mean" in functions or "sum" in functions)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "bool"])
@pytest.mark.parametrize("functions", [NORM, TURN, TURNED])
@pytest.mark.parametrize("read", [1, 7, 999, 9437440, 10**9 + 1])
@pytest.mark.parametrize("written", [1, 6, 8388608, 10**9])
def test_whole_rows(functions: str, dtype: str, read: int, written: int) -> None:
    """Whatever the bytes, rows are whole, and a table has a row for so many of a tensor."""
    found: Form = form({"functions": functions, "dtype": dtype}, {"read": read, "written": written})
    assert min(found.read, found.written, found.rows, found.width) >= 1
    assert found.rows % found.repeats == 0
    assert found.table % found.width == 0
    assert not found.table or found.table * found.repeats == found.rows * found.width
