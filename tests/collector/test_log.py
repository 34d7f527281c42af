"""The log: nothing that was said to be written is lost, and nothing that changed since is believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.log import Fault, Segment, latest, read_log, read_segment, verify
from oplib.errors import InvalidInputError


def row(case: str, status: str = "ok", date: str = "1", what: str = "time") -> dict:
    return {"what": what, "variant": "v", "case_id": case, "status": status, "date": date}


def written(folder: Path, *rows: dict) -> Path:
    segment = Segment(folder)
    for one in rows:
        segment.append(one)
    segment.close()
    return segment.path


def test_rows_come_back(tmp_path: Path) -> None:
    """Two writers in one folder have a file each; the rows come back by date."""
    written(tmp_path, row("a", date="2"), row("b", date="3"))
    written(tmp_path, row("c", date="1"))
    rows, faults = read_log(tmp_path)
    assert [one["case_id"] for one in rows] == ["c", "a", "b"]
    assert not faults


@given(data=st.data())
def test_a_changed_byte_is_found(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever bit of whatever byte flips, verify names the line, and only rows of that line are gone."""
    folder = tmp_path_factory.mktemp("log")
    path = written(folder, *(row(str(i), date=str(i)) for i in range(4)))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    count, faults = verify(folder)
    assert faults
    assert count >= 4 - 2  # a line end that became another byte joins two lines


def test_a_torn_line_loses_itself_only(tmp_path: Path) -> None:
    """What a killed process was writing is no damage: at every length of the last line the rows before it are there."""
    path = written(tmp_path, row("a"), row("b"))
    content = path.read_bytes()
    start = content.index(b"\n") + 1
    for end in range(start + 1, len(content) - 1):
        path.write_bytes(content[:end])
        rows, faults = read_log(tmp_path)
        assert [one["case_id"] for one in rows] == ["a"]
        assert [fault.torn for fault in faults] == [True]


def test_a_missing_line_is_found(tmp_path: Path) -> None:
    """A line that is gone shows by the serial numbers."""
    path = written(tmp_path, row("a"), row("b"), row("c"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    found = [one for one in read_segment(path) if isinstance(one, Fault)]
    assert [fault.reason for fault in found] == ["row 2 where row 1 should be"]


def test_which_of_two_rows_counts(tmp_path: Path) -> None:
    """The later one that is ok; a failure replaces failures only."""
    written(
        tmp_path,
        row("a", "ok", "1"), row("a", "ok", "2"),
        row("b", "ok", "1"), row("b", "error", "2"),
        row("c", "error", "1"), row("c", "oom", "2"),
        row("d", "error", "1"), row("d", "ok", "2"),
    )  # fmt: skip
    found = latest(read_log(tmp_path)[0])
    said = {key[2]: (one["status"], one["date"]) for key, one in found.items()}
    assert said == {"a": ("ok", "2"), "b": ("ok", "1"), "c": ("oom", "2"), "d": ("ok", "2")}


def test_a_folder_without_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no log"):
        verify(tmp_path)
