"""Sizes in words."""

import pytest

from oplib.wording import gib


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0.00 GiB"),
        (1, "<0.01 GiB"),
        (2**30, "1.00 GiB"),
        (9.99 * 2**30, "9.99 GiB"),
        (9.999 * 2**30, "10.0 GiB"),
        (141e9, "131.3 GiB"),  # 141 GB / 1.0737 GB
        (None, "-"),
    ],
)
def test_gib(size, words):
    """Three digits or one after the point; what is there is never nothing."""
    assert gib(size) == words
