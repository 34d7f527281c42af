"""Known architectures and relatives."""

from __future__ import annotations

import json

import pytest

from models.features import FEATURES
from models.known import (
    differences,
    is_known,
    known_architectures,
    parse_architectures,
    relatives,
    similarity,
)
from models.signature import signature
from tracer.cli import main

TRACED = {name: a for name, a in known_architectures().items() if a.signature}


def test_names_and_families():
    """The nearest system models 32 names in 16 families; all of them are known here."""
    listed = [a for a in known_architectures().values() if a.source == "aiconfigurator"]
    assert len(listed) == 32
    assert len({a.family for a in listed}) == 16


def test_is_known():
    assert is_known("Qwen3ForCausalLM")
    assert not is_known("Qwen9ForCausalLM")
    assert not is_known("")


@pytest.mark.parametrize("name", TRACED)
def test_records_are_facts(name):
    """A signature says which version traced it and of what, in words of the vocabulary, sorted, nothing twice."""
    record = TRACED[name]
    assert record.traced_with.startswith("transformers ")
    assert record.examples or "default config" in record.traced_with
    features = (*record.signature, *record.optional)
    assert set(features) <= FEATURES.keys()
    assert len(set(features)) == len(features)
    assert list(record.signature) == sorted(record.signature)


@pytest.mark.parametrize(
    ("architecture", "relative", "differs"),
    [
        ("Qwen3ForCausalLM", "LlamaForCausalLM", ["+ norms of q and k"]),
        ("KimiK25ForConditionalGeneration", "DeepseekV3ForCausalLM", []),
        ("MixtralForCausalLM", "MiniMaxM2ForCausalLM", ["- norms of q and k"]),
        ("DeepseekV32ForCausalLM", "DeepseekV3ForCausalLM", None),
        ("GptOssForCausalLM", "MixtralForCausalLM", None),
        ("NemotronHForCausalLM", "Qwen3_5ForConditionalGeneration", None),
    ],
)
def test_relatives_of_one_left_out(architecture, relative, differs):
    """With one architecture treated as new, its relatives are those that people name."""
    found = {
        r["architecture"]: r
        for r in relatives(TRACED[architecture].signature, architecture=architecture)
    }
    assert architecture not in found
    assert relative in found
    if differs is not None:
        assert found[relative]["differs"] == differs


def test_relatives_are_ordered_and_distinct():
    """Closest first, at most as many as asked for, and no two of one signature."""
    new = frozenset({"attention:plain", "attention:gqa", "attention:full", "scan:mamba2"})
    found = relatives(new, architecture="New", most=5)
    scores = [r["similarity"] for r in found]
    assert len(found) == 5
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(r["differs"]) for r in found}) == 5
    assert json.loads(json.dumps(found)) == found


def test_nothing_to_compare():
    assert relatives(frozenset(), architecture="New") == []


def test_optional_features_do_not_count_against():
    """Tied or not, a Qwen3 is a Qwen3."""
    record = known_architectures()["Qwen3ForCausalLM"]
    assert "embedding:tied" in record.optional
    for tied in (set(), {"embedding:tied"}):
        first = relatives({*record.signature, *tied}, architecture="New", most=1)[0]
        assert (first["architecture"], first["similarity"]) == ("Qwen3ForCausalLM", 1.0)


def test_similarity_by_hand():
    """Weights 4 and 2 shared, 2 and 1 not: 6 / 9."""
    a = frozenset({"attention:plain", "attention:full", "attention:window"})
    b = frozenset({"attention:plain", "attention:full", "attention:gqa"})
    assert similarity(a, b) == similarity(b, a) == pytest.approx(6 / 9)
    assert similarity(a, a) == 1.0
    assert similarity(a, frozenset()) == 0.0
    assert differences(a, b) == ["+ sliding windows", "- grouped key/value heads (GQA)"]


def test_an_op_kind_has_words():
    assert differences(frozenset({"op:fourier_mix"}), frozenset()) == ["+ fourier mix"]


RECORD = {
    "architecture": "A",
    "model_type": "a",
    "family": "",
    "examples": [],
    "signature": [],
    "optional": [],
    "traced_with": "",
    "source": "",
}


@pytest.mark.parametrize(
    ("records", "words"),
    [([RECORD, RECORD], "twice"), ([RECORD | {"source": "rumour"}], "rumour")],
)
def test_refused_records(records, words):
    """A second record of a name, and a source that is not given, are mistakes in the file."""
    with pytest.raises(ValueError, match=words):
        parse_architectures({"sources": {}, "architecture": records})


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["Qwen--Qwen3-8B", "deepseek-ai--DeepSeek-V3", "openai--gpt-oss-20b"]
)
def test_traces_agree_with_the_file(published_configs, capsys, model):
    """A trace of today shows the signature that the file holds; else run `python -m models.learn`."""
    assert main([str(published_configs / model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    record = known_architectures()[report["architecture"]]
    assert frozenset(record.signature) <= signature(report)
    assert signature(report) <= {*record.signature, *record.optional}
