"""The fuzz itself: its cases, its verdicts, and a seeded few of them."""

from __future__ import annotations

import json
from typing import Any

import fuzz
import pytest
from fuzz_configs import LAYERS, apply, bases, case, cut, text_path
from fuzz_worker import judge

from tests.tracer import small_models
from tests.tracer.older import OLDER

SEED, CASES = 2026, 60
#: Before transformers 5.23 the list of DeepSeek-V4 lacks a few FLOPs, and says so.
SMALL = {f"small--{n}" for n in small_models.SMALL if not (OLDER and n == "deepseek_v4")}


@pytest.mark.slow
def test_sixty_cases() -> None:
    """Each traces exactly or ends in one clear error; benign changes trace."""
    known = {name: config for name, config in bases().items() if name in SMALL}
    bad: list[Any] = []
    seen = set()
    for number in range(CASES):
        name, benign, changes = case(SEED, number, known)
        found = judge(apply(known[name], changes))
        seen.add(found["verdict"])
        if fuzz.is_bad(found, benign=benign):
            bad.append((number, name, changes, found))
    assert not bad
    assert seen == {"exact", "error"}


def test_cases_follow_from_the_seed() -> None:
    """The same number is the same case, and other seeds are other cases."""
    known = {"a": {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 9}}
    first = [json.dumps(case(1, n, known)) for n in range(40)]
    assert first == [json.dumps(case(1, n, known)) for n in range(40)]
    assert first != [json.dumps(case(2, n, known)) for n in range(40)]


def test_cut_keeps_one_layer_of_each_kind() -> None:
    """Lists and patterns of one entry per layer stay aligned."""
    config = {
        "text_config": {
            "num_hidden_layers": 9,
            "layer_types": ["a"] * 7 + ["b", "c"],
            "pattern": "MMMMMMM*-",
            "other": [1, 2],
        }
    }
    found = cut(config)["text_config"]
    assert found["num_hidden_layers"] == LAYERS == 5
    assert found["layer_types"] == ["a", "a", "a", "b", "c"]
    assert found["pattern"] == "MMM*-"
    assert found["other"] == [1, 2]
    assert text_path(config) == ("text_config",)


def test_apply_changes_a_copy() -> None:
    """A change whose place is gone does nothing."""
    config = {"a": {"b": 1}, "c": 2}
    changes = [
        {"path": ["a", "b"], "value": 5},
        {"path": ["c"], "drop": True},
        {"path": ["x", "y"], "value": 1},
    ]
    found = apply(config, changes)
    assert found == {"a": {"b": 5}}
    assert config == {"a": {"b": 1}, "c": 2}


@pytest.mark.parametrize(
    ("verdict", "benign", "bad"),
    [("exact", True, False), ("error", False, False), ("error", True, True), ("traceback", False, True),
     ("inexact", False, True), ("hang", False, True), ("memory", False, True), ("silent", False, True)],
)  # fmt: skip
def test_what_is_bad(verdict: str, benign: bool, bad: bool) -> None:
    """Only an exact trace, or an error where the change may be wrong, is good."""
    assert fuzz.is_bad({"verdict": verdict}, benign=benign) is bad


def test_a_traceback_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """What escapes the tracer is told with its place, an error of ours with its kind."""
    from tracer import analysis

    def broken(*_args: Any, **_options: Any) -> None:
        raise ZeroDivisionError("by seven")

    assert judge({"model_type": 7})["verdict"] == "error"
    monkeypatch.setattr(analysis, "analyse", broken)
    found = judge({})
    assert found["verdict"] == "traceback"
    assert found["detail"].startswith("ZeroDivisionError at test_fuzz.py:")


@pytest.mark.slow
def test_a_hang_ends() -> None:
    """The worker is killed at its time bound, and a fresh one judges on."""
    worker = fuzz.Worker(timeout_s=0.01, memory_bytes=8 * 10**9)
    config = bases()["small--llama"]
    assert worker.judge(config)["verdict"] == "hang"
    worker.timeout_s = 60.0
    assert worker.judge(config)["verdict"] == "exact"
    worker.close()


@pytest.mark.slow
def test_a_run_resumes(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A second call judges only what is left, and both exit 0."""
    arguments = ["--seed", "5", "--out", str(tmp_path), "--workers", "1"]
    assert fuzz.main(["--cases", "2", *arguments]) == 0
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert fuzz.main(["--cases", "3", *arguments]) == 0
    again = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert again[:2] == lines
    assert len(again) == 3
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["cases"] == 3
    capsys.readouterr()
