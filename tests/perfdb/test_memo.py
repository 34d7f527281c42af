"""What is kept between runs is what would be worked out again, and no file in the way stops a run."""

import json

import pytest

from perfdb import memo


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and nothing remembered from other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    memo._kept.cache_clear()
    yield tmp_path / "trace-model"
    memo._kept.cache_clear()


def ask(key, worked, value=(1.0, 2.5)):
    def work():
        worked.append(key)
        return list(value)

    return memo.remember("results", key, work)


def test_a_result_is_worked_out_once(folder):
    """Once per key, also over a new run, which reads the file."""
    worked = []
    assert ask("a", worked) == ask("a", worked) == [1.0, 2.5]
    memo._kept.cache_clear()  # a new run
    assert ask("a", worked) == [1.0, 2.5]
    assert ask("b", worked, (3.0,)) == [3.0]
    assert worked == ["a", "b"]
    assert json.loads((folder / "results.json").read_text()) == {"a": [1.0, 2.5], "b": [3.0]}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "text"}', '{"a": ["text"]}'])
def test_a_broken_file_is_as_none(folder, text):
    folder.mkdir()
    (folder / "results.json").write_text(text)
    worked = []
    assert ask("a", worked) == [1.0, 2.5]
    assert worked == ["a"]


def test_a_folder_that_cannot_be_written_changes_nothing(folder):
    folder.write_text("a file where the folder would be")
    worked = []
    assert ask("a", worked) == ask("a", worked) == [1.0, 2.5]
    assert worked == ["a"]


def test_what_another_run_kept_meanwhile_stays(folder):
    worked = []
    ask("a", worked)
    (folder / "results.json").write_text('{"other": [7.0]}')
    ask("b", worked)
    assert set(json.loads((folder / "results.json").read_text())) == {"other", "a", "b"}


def test_keys_follow_from_every_part():
    """Parts do not run into each other."""
    assert memo.key_of(["ab", "c"]) != memo.key_of(["a", "bc"])
    assert memo.key_of([b"a"]) == memo.key_of(["a"])
    assert memo.text_of("kriging.py") != memo.text_of("kriging.py", "folds.py")
