"""Facts of backends, beside what they follow from."""

import json
import math
from pathlib import Path

import pytest

from perfdb.backends import sum_error

ALIGNMENT = Path(__file__).resolve().parents[2] / "docs" / "alignment.json"
UNSTEADY = 0.05  # as tools/docs_alignment.py has it


@pytest.mark.parametrize("phase", ["context", "generation"])
def test_the_error_of_sums_is_that_of_the_models_measured(phase):
    rows = json.loads(ALIGNMENT.read_text(encoding="utf-8"))
    gaps = [
        row["predicted_ms"] / row["measured_ms"] - 1
        for row in rows
        if (row["role"], row["phase"], row["one_graph"]) == ("model", phase, False)
        and row["measured_ms"]
        and row["spread"] <= UNSTEADY
    ]
    assert len(gaps) >= 12
    measured = math.sqrt(sum(gap * gap for gap in gaps) / len(gaps))
    assert sum_error("torch", phase) == pytest.approx(measured, abs=0.01)


def test_nothing_is_known_of_the_sums_of_other_backends():
    assert sum_error("trtllm", "context") is None
    assert sum_error("", "generation") is None
