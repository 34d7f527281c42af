"""docs/add-an-op.md works as written: its files, put in a copy of the tree, pass their own tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "add-an-op.md"
COPIED = ("oplib", "perfdb", "tracer", "models", "pyproject.toml")
TESTS = ("conftest.py", "oplib/conftest.py", "tracer/toy.py")


def files_on_page() -> dict[str, str]:
    """Text of each file that the page shows, by the path in its first line."""
    blocks = re.findall(
        r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    return dict(blocks)


@pytest.mark.slow
def test_the_worked_example_runs(tmp_path: Path) -> None:
    """The op is discovered, priced and matched without any other file changing."""
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for name in TESTS:
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    shown = files_on_page()
    assert len(shown) == 4
    for name, text in shown.items():
        assert not (ROOT / name).exists(), f"{name} exists: the page needs another example"
        (tmp_path / name).write_text(text, encoding="utf-8")
    tests = [name for name in shown if name.startswith("tests/")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
