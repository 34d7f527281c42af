"""The example of docs/submodules.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "submodules.md"


@pytest.mark.slow
def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints a line for each sub-module, with work in every one but the norms."""
    monkeypatch.chdir(ROOT)
    (program,) = re.findall(
        r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    exec(compile(program, str(PAGE), "exec"), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[1] for row in rows} == {"layer", "attention", "moe", "mlp", "mixer", "norm"}
    assert all((int(row[4]) > 0) == (row[1] != "norm") for row in rows)
