"""Storage of weights: packing and scales, exact."""

import pytest

from oplib.dtypes import QUANT_MODES, STORAGE_BITS, quant_mode, storage_bytes, weight_bytes
from oplib.errors import InvalidInputError


@pytest.mark.parametrize(
    ("mode", "n", "k", "expected"),
    [
        ("float32", 3, 5, 60),
        ("bfloat16", 3, 5, 30),
        ("float16", 3, 5, 30),
        ("fp8", 3, 5, 15 + 4),
        ("fp8_wo", 3, 5, 15 + 4),
        ("fp8_block", 129, 257, 129 * 257 + 2 * 3 * 4),  # blocks at the edges count whole
        ("int8", 3, 5, 15 + 3 * 4),
        ("int8_wo", 3, 5, 15 + 3 * 4),
        ("nvfp4", 3, 17, 26 + 3 * 2 + 4),  # 51 halves of a byte; two groups of 16 a row
        ("mxfp4", 3, 33, 50 + 3 * 2),  # 99 halves of a byte; two groups of 32 a row
        ("w4a8_mxfp4", 3, 33, 50 + 3 * 2),
        ("int4_wo", 3, 129, 194 + 6 * 2 + 3),  # 387 halves; 6 scales of 2 bytes, 6 zeros of 4 bits
    ],
)
def test_weight_bytes(mode, n, k, expected):
    """Bytes equal the sum beside the row."""
    assert weight_bytes(mode, n, k) == expected


def test_every_mode_has_a_row():
    """A new mode brings its sum."""
    rows = next(m for m in test_weight_bytes.pytestmark if m.name == "parametrize").args[1]
    assert {row[0] for row in rows} == set(QUANT_MODES)


def test_group_size_replaces_the_mode_s_own():
    """Groups of 32 of an int4 weight: four scales a row, four zeros."""
    assert weight_bytes("int4_wo", 1, 128, group_size=32) == 64 + 4 * 2 + 2
    assert weight_bytes("fp8_block", 64, 64, group_size=32) == 4096 + 4 * 4


def test_units():
    """A stored element is whole bytes; a mode computes in a dtype of its own table."""
    assert all(bits % 8 == 0 for bits in STORAGE_BITS.values())
    assert storage_bytes("float32") == 4
    assert {mode.compute_dtype for mode in QUANT_MODES.values()} <= set(QUANT_MODES)
    assert quant_mode("mxfp4").compute_dtype == "bfloat16"


@pytest.mark.parametrize("lookup", [quant_mode, storage_bytes, lambda x: weight_bytes(x, 1, 1)])
def test_unknown_names_list_what_exists(lookup):
    """The error shows the choices."""
    with pytest.raises(InvalidInputError, match=r"'bf16'.* bfloat16"):
        lookup("bf16")
