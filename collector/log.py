"""The log of a run: rows that are never changed, in segments that one process each writes.

A segment is a file of its own, so that writers on several hosts of a network file system need no lock. A line is the
CRC-32 of the rest, a serial number and a JSON object; it is flushed and synced before the next case counts as done. A
process that dies loses at most the line it was writing: a last line without its end is torn and read as absent.

Two measurements of one case (same `what`, variant and case): both stay in the log, the later one that is ok counts; of
rows that are not ok the latest counts, and only where none is ok.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from oplib.errors import InvalidInputError

Json: TypeAlias = dict[str, Any]  # Any: an object decoded from JSON
Key: TypeAlias = tuple[str, str, str]

OK, SKIPPED, OOM, TIMEOUT, ERROR, WRONG = (
    "ok",
    "skipped",
    "oom",
    "timeout",
    "error",
    "wrong_result",
)
STATUSES = (OK, SKIPPED, OOM, TIMEOUT, ERROR, WRONG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A line that cannot be read: `torn` where it is the last of its segment and has no end."""

    path: Path
    line: int
    reason: str
    torn: bool = False

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}: {self.reason}"


class Segment:
    """A new file of a log, written by this process alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.log"
        self.path = folder / name
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        _sync_folder(folder)
        self._serial = 0

    def append(self, row: Json) -> None:
        """Write a row; when this returns it is on the disk."""
        body = f"{self._serial} {json.dumps(row, separators=(',', ':'), allow_nan=False)}".encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(
                f"{self.path}: {written} of {len(line)} bytes were written; the disk is full"
            )
        os.fsync(self._file)
        self._serial += 1

    def close(self) -> None:
        """No more rows."""
        os.close(self._file)


def segments(folder: Path) -> list[Path]:
    """The files of a log."""
    return sorted(folder.glob("*.log"))


def read_log(folder: Path) -> tuple[list[Json], list[Fault]]:
    """Every readable row of all segments, oldest first, and every line that is not."""
    rows: list[Json] = []
    faults: list[Fault] = []
    for path in segments(folder):
        for found in read_segment(path):
            if isinstance(found, Fault):
                faults.append(found)
            else:
                rows.append(found)
    return sorted(rows, key=lambda row: str(row.get("date", ""))), faults


def read_segment(path: Path) -> Iterator[Json | Fault]:
    """The rows of one file in their order, with a Fault for each line that is changed, and for lines that are gone."""
    lines = path.read_bytes().split(b"\n")
    whole, rest = lines[:-1], lines[-1]
    expected = 0
    for number, line in enumerate(whole, 1):
        parsed = _parse(line)
        if isinstance(parsed, str):
            yield Fault(path=path, line=number, reason=parsed)
            expected += 1
            continue
        serial, row = parsed
        if serial != expected:
            yield Fault(
                path=path, line=number, reason=f"row {serial} where row {expected} should be"
            )
        expected = serial + 1
        yield row
    if rest:
        yield Fault(path=path, line=len(lines), reason="the line has no end", torn=True)


def _parse(line: bytes) -> tuple[int, Json] | str:
    crc, _, body = line.partition(b" ")
    right = b"%08x" % zlib.crc32(body)
    if crc != right:
        return f"the checksum is {crc[:20].decode(errors='replace')}, the row's is {right.decode()}"
    serial, _, text = body.partition(b" ")
    return int(serial), json.loads(text)


def key_of(row: Json) -> Key:
    """What a row is a measurement of."""
    return str(row["what"]), str(row["variant"]), str(row["case_id"])


def latest(rows: Iterable[Json]) -> dict[Key, Json]:
    """The row that counts for each case, in the order of first appearance."""
    found: dict[Key, Json] = {}
    for row in rows:
        if "case_id" not in row:
            continue
        key = key_of(row)
        known = found.get(key)
        if known is None or row["status"] == OK or known["status"] != OK:
            found[key] = row
    return found


def verify(folder: Path) -> tuple[int, list[Fault]]:
    """Rows that can be read, and the faults; torn lines are among them but lose nothing that was said to be done."""
    if not segments(folder):
        raise InvalidInputError(f"{folder} holds no log.", "Its segments end in .log.")
    rows, faults = read_log(folder)
    return len(rows), faults


def _sync_folder(folder: Path) -> None:
    """A new file's name is on the disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
