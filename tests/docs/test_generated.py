"""The generated pages are what their tools write now."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_generated_pages_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/ops.md, docs/rewrites.md and docs/cli.md follow the code."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import docs_build

    stale = [path.name for path in docs_build.stale(docs_build.pages())]
    assert not stale, f"{', '.join(stale)} differ; run: make docs"
