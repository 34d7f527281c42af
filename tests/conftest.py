"""What every test shares: no network, the published configs, and golden texts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Set before anything imports huggingface_hub, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# Threads of one test wait for those of the one beside it: set before torch is loaded, for processes of tests as well.
os.environ["OMP_NUM_THREADS"] = "1"
# What the program keeps between runs is kept for this run alone.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="trace-model-cache-")

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"

# One commit, one verdict: a test draws the same examples each time. `pytest --hypothesis-profile=search` draws others,
# and `quick`, which is that of `make check`, fewer.
settings.register_profile("repeatable", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("quick", deadline=None, max_examples=12, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1500)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


@pytest.fixture(scope="session")
def published_configs() -> Path:
    """The folder of published model configs, `<org>--<name>/config.json`."""
    for folder in (ROOT.parent / "shared" / "model_configs", ROOT / "shared" / "model_configs"):
        if folder.is_dir():
            return folder
    pytest.skip("the published model configs (../shared/model_configs) are not on this machine")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/<name>, or rewrite that file under --update-golden."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} is missing; run: make golden"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; run: make golden"

    return compare
