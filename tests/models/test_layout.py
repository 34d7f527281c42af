"""Layouts: which sizes go together, and how they are written."""

from __future__ import annotations

import pytest

from models.layout import Layout, divisors
from oplib.errors import InvalidInputError


def test_sizes_follow_from_each_other():
    layout = Layout(tp=4, pp=2, ep=8, dp=4)
    assert (layout.group, layout.num_gpus, layout.moe_tp) == (16, 32, 2)
    assert layout.to_json() == {"tp": 4, "pp": 2, "ep": 8, "dp": 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tp8", Layout(tp=8)),
        ("TP4 dp2 ep8", Layout(tp=4, dp=2, ep=8)),
        ("tp=4,pp=2", Layout(tp=4, pp=2)),
        ("tp2.pp3", Layout(tp=2, pp=3)),
    ],
)
def test_a_text_names_a_layout(text, expected):
    assert Layout.parse(text) == expected
    assert Layout.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "8", "tp", "tp8 tp4", "tp8 xp2", "tp8; rm", "tp-2"])
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidInputError):
        Layout.parse(text)


@pytest.mark.parametrize("sizes", [{"tp": 0}, {"pp": -1}, {"dp": 1.5}, {"tp": True}])
def test_sizes_are_whole_and_positive(sizes):
    with pytest.raises(InvalidInputError, match=next(iter(sizes))):
        Layout(**sizes)


def test_experts_are_dealt_to_ranks_of_a_stage():
    with pytest.raises(InvalidInputError, match="Allowed: 1, 2, 3, 4, 6, 12"):
        Layout(tp=6, dp=2, ep=8)


def test_divisors():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
