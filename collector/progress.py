"""The progress line on stderr: cases done, rate, time left."""

from __future__ import annotations

import sys
import time
from typing import Any

_EVERY_SECONDS = (0.2, 10.0)  # on a terminal, where the line is written over, and in a file


class Progress:
    """Counts rows and says so now and then."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._bad = total, 0, 0
        self._start = self._said = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, row: dict[str, Any]) -> None:  # Any: a row of the log
        self._done += 1
        self._bad += row["status"] not in ("ok", "skipped")
        now = time.monotonic()
        if now - self._said >= _EVERY_SECONDS[0 if self._terminal else 1]:
            self._said = now
            self._say(row)

    def end(self) -> None:
        """The last line stays."""
        if self._terminal and self._done:
            print(file=sys.stderr)

    def _say(self, row: dict[str, Any]) -> None:  # Any: a row of the log
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        text = f"{self._done}/{self._total} cases, {self._bad} not ok, {rate:.1f}/s, {left:.0f} s left, {row['op']}"
        print(
            f"\r{text:78}" if self._terminal else text,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
