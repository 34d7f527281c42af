"""Memo: small results that take long, kept between runs in the user's cache folder.

A key names all that the result follows from, data and program text, so a kept result is the one that would be worked
out again. A folder that cannot be read or written costs time and changes nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TypeAlias

Numbers: TypeAlias = list[float]

_MOST = 20_000  # results that a file keeps; the oldest go


def key_of(parts: Iterable[bytes | str]) -> str:
    """A key for data and texts."""
    found = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
        found.update(b"\0")
    return found.hexdigest()


@cache
def text_of(*names: str) -> str:
    """A key for the files of this package with these names."""
    return key_of(Path(__file__).with_name(name).read_bytes() for name in names)


def remember(name: str, key: str, work: Callable[[], Numbers]) -> Numbers:
    """What `work` gives, from the file `name` where it is kept under `key`, else worked out and kept."""
    kept = _kept(name)
    if key not in kept:
        kept[key] = work()
        _keep(name, kept)
    return kept[key]


def _path(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "trace-model" / f"{name}.json"


@cache
def _kept(name: str) -> dict[str, Numbers]:
    return _read(name)


def _read(name: str) -> dict[str, Numbers]:
    try:
        found = json.loads(_path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # no file, a broken one, no home folder
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if _is_numbers(value)}


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(number, int | float) for number in value)


def _keep(name: str, kept: dict[str, Numbers]) -> None:
    """Write all that is known, what other runs kept meanwhile included; a reader never meets half a file."""
    try:
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        merged = _read(name) | kept
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(dict(list(merged.items())[-_MOST:])), encoding="utf-8")
        part.replace(path)
    except (OSError, RuntimeError):
        return
