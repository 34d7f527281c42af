"""Triage against labels that were given by reading the modeling files: S3 exactly where a computation is unknown."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.tracer import shrunk, small_models
from tests.tracer.older import NOT_YET
from tracer import analysis

LABELS = tomllib.loads(Path(__file__).with_name("triage_labels.toml").read_text(encoding="utf-8"))
FAST = {"bloom", "doge", "mamba2"}


def labelled() -> list:
    """Type and label, those that are not fast marked slow."""
    found = [(name, label) for label in ("S1", "S3") for name in LABELS[label]]
    known = [p for p in found if p[0] in shrunk.CONFIG_MAPPING and p[0] not in NOT_YET]
    return [p if p[0] in FAST else pytest.param(*p, marks=pytest.mark.slow) for p in known]


def test_labels_are_enough_and_have_reasons():
    """At least forty types, both labels, a reason each, no type twice."""
    names = [name for group in LABELS.values() for name in group]
    assert len(names) == len(set(names))
    assert len(LABELS["S1"]) + len(LABELS["S3"]) >= 40
    assert LABELS["S3"]
    assert all(len(why) > 10 for label in ("S1", "S3") for why in LABELS[label].values())


@pytest.mark.parametrize(("model_type", "label"), labelled())
def test_triage_agrees_with_the_label(model_type, label):
    """The situation is S3 where the label says so, and only there."""
    folder = small_models.write(shrunk.shrunk(model_type), model_type)
    found = analysis.analyse(folder, analysis.Options())
    assert (found["situation"] == "S3") == (label == "S3"), found["unsupported"]
