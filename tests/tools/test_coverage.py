"""Model types of transformers: the committed coverage holds, and the tool that made it sees what goes wrong."""

from __future__ import annotations

import os
import time
from importlib import metadata
from typing import Any

import coverage_page
import coverage_record
import coverage_rows
import pool
import pytest
import zoo
from coverage_record import compare, joined

Row = dict[str, Any]  # Any: a JSON object
RECORD = coverage_record.recorded()
ROWS, MADE_WITH = RECORD["rows"], RECORD["made_with"]
THIRD = [key for key in coverage_record.third(ROWS) if coverage_record.proved(ROWS[key])]
LIMITS: dict[str, Any] = {"jobs": 2, "seconds": 20.0, "memory_gb": 2.0}


@pytest.fixture(scope="module")
def specimens() -> dict[str, zoo.Specimen]:
    """The types of the installed transformers."""
    return zoo.known()


def row(key: str = "causal/llama", **more: Any) -> Row:
    """A row of a type that traces exactly, with these fields changed."""
    good = {"phases": ["context", "generation"], "exact": True, "situation": "S1-or-S2"}
    return {"type": key, "error": "", **good, **more}


@pytest.mark.slow
@pytest.mark.parametrize("key", THIRD)
def test_the_third_traces_as_recorded(key: str, specimens: dict[str, zoo.Specimen]) -> None:
    """Both phases, conservation exact, the same situation.

    Under another transformers than the recorded one, whose code may differ, one clear error or S3 is an answer as well.
    """
    if key not in specimens:
        pytest.skip("the installed transformers has no such type")
    found = coverage_rows.trace(specimens[key])
    assert not found["error"].startswith("not caught")
    if (found["error"] or found["situation"] == "S3") and metadata.version(
        "transformers"
    ) != MADE_WITH["transformers"]:
        pytest.skip(found["error"] or "S3 there")
    assert not found["error"]
    assert coverage_record.differences(ROWS[key], found) == [], "run: make coverage"


@pytest.mark.parametrize("key", sorted(RECORD["no_decoder"]))
def test_what_has_no_decoder_gets_one_clear_error(
    key: str, specimens: dict[str, zoo.Specimen]
) -> None:
    """A refusal in the tracer's own words, never a traceback."""
    if key not in specimens:
        pytest.skip("the installed transformers has no such type")
    found = coverage_rows.trace(specimens[key])
    assert found["phases"] == []
    assert found["error"]
    assert not found["error"].startswith("not caught")


def test_the_page_is_that_of_the_record() -> None:
    assert coverage_page.PAGE.read_text(encoding="utf-8") == coverage_page.render(RECORD), (
        "run: make coverage"
    )


def test_the_record_and_the_configs_speak_of_the_same_types(
    specimens: dict[str, zoo.Specimen],
) -> None:
    """Each type has a row or a reason, and zoo.toml names nothing else."""
    assert not set(ROWS) & set(RECORD["no_decoder"])
    everything = set(ROWS) | set(RECORD["no_decoder"])
    assert set(zoo.written()) <= everything
    for key, one in specimens.items():
        if key in everything:
            assert bool(one.no_decoder) == (key in RECORD["no_decoder"]), key


def test_few_causal_types_are_left_out_and_each_number_has_a_source() -> None:
    assert sum(key.startswith("causal/") for key in RECORD["no_decoder"]) <= 5
    for key, said in zoo.written().items():
        assert said.get("source") or said.get("reason"), key
        assert bool(said["config"]) == ("source" in said), key


def test_a_config_is_the_class_defaults_with_what_the_file_says() -> None:
    plain = zoo.specimen("causal/llama", "LlamaForCausalLM")
    assert plain.config == {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    nested = zoo.specimen("image_text/cohere_compass", "X").config["text_config"]
    assert nested == {
        k: v
        for k, v in zoo.specimen("causal/cohere_compass_text", "X").config.items()
        if k not in ("model_type", "architectures")
    }
    assert nested["rope_parameters"]["full_attention"] is None


def test_a_name_picks_each_mapping_that_has_it(specimens: dict[str, zoo.Specimen]) -> None:
    keys = [one.key for one in zoo.chosen(specimens, ["gemma3", "causal/llama"])]
    assert keys == ["causal/gemma3", "image_text/gemma3", "causal/llama"]
    with pytest.raises(SystemExit, match="no type 'lama'"):
        zoo.chosen(specimens, ["lama"])


def test_the_third_is_the_same_however_the_types_are_ordered() -> None:
    assert coverage_record.third("gfedcba") == ["a", "d", "g"]


@pytest.mark.parametrize(
    "worse",
    [
        {"exact": False},
        {"phases": ["context"], "exact": False},
        {"phases": [], "exact": False, "error": "no result after 90 s"},
    ],
)
def test_a_lost_proof_fails_the_check(worse: Row, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"causal/llama": row()}
    assert compare({"causal/llama": row(**worse)}, old) == 1
    assert "LOST causal/llama" in capsys.readouterr().out
    assert compare({"causal/llama": row(seconds=99)}, old) == 0
    assert compare({"causal/llama": row()}, {"causal/llama": row(**worse)}) == 0


def test_a_new_situation_is_told_and_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    old = {"causal/llama": row()}
    assert compare({"causal/llama": row(situation="S3"), "causal/new": row()}, old) == 0
    said = capsys.readouterr().out
    assert "causal/llama: situation: 'S1-or-S2', here 'S3'" in said
    assert "causal/new: not in the committed table" in said


def test_rows_of_another_version_are_not_joined() -> None:
    made = {"torch": "2.13.0", "transformers": "5.23.0"}
    old: Row = {"made_with": made, "no_decoder": {}, "rows": {"b": 1, "c": 1}, "wall_s": 9}
    new: Row = {"made_with": made, "no_decoder": {"d": "why"}, "rows": {"c": 2, "a": 2}}
    assert joined(old, new) == {
        **old,
        "no_decoder": {"d": "why"},
        "rows": {"a": 2, "b": 1, "c": 2},
    }
    with pytest.raises(SystemExit, match=r"of transformers 5\.23\.0"):
        joined(old, new | {"made_with": made | {"transformers": "5.24.0"}})


def test_an_error_loses_its_folder_and_becomes_a_row() -> None:
    """A type that cannot be traced says why, in the words of the tracer."""
    one = zoo.Specimen(
        key="causal/bert", architecture="BertLMHeadModel", config={"model_type": "bert"}
    )
    found = coverage_rows.trace(one)
    assert found["error"].startswith("config.json: ")
    assert (found["phases"], found["exact"], found["situation"]) == ([], False, "")


@pytest.mark.slow
def test_a_late_process_is_killed_and_the_rest_goes_on() -> None:
    start = time.monotonic()
    found = dict(pool.results(time.sleep, [60, 0, 0.1], jobs=2, seconds=4, memory_gb=2))
    assert found == {60: pool.Lost("no result after 4 s"), 0: None, 0.1: None}
    assert time.monotonic() - start < 30


def test_a_process_that_dies_is_a_result() -> None:
    found = dict(pool.results(os._exit, [3, 5], **LIMITS))
    assert found == {n: pool.Lost(f"its process ended with status {n}") for n in (3, 5)}


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="only Linux limits a process's data")
def test_memory_is_bounded() -> None:
    found = list(pool.results(bytearray, [10**10, 5], **LIMITS))
    assert sorted((size, len(got) if isinstance(got, bytearray) else got.reason) for size, got in found) == [
        (5, 5),
        (10**10, "it needs more than 2 GB"),
    ]  # fmt: skip
