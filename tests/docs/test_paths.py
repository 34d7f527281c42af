"""What the documents name exists: files, symbols, links, make targets and options of commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import models.cli
import tracer.cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
TOPS = (
    "oplib",
    "perfdb",
    "tracer",
    "models",
    "collector",
    "tools",
    "tests",
    "docs",
    "examples",
    ".ci",
)
FILE = re.compile(rf"(?:{'|'.join(map(re.escape, TOPS))})/[\w./-]*[\w/]")
SYMBOL = re.compile(r"(?:oplib|perfdb|tracer|models|tools)(?:\.\w+)+")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    """The page without its fenced and indented code, which shows output and files to be written."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def spans(page: Path) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: Path) -> Iterator[str]:
    """Command lines in the page's code, comments cut off."""
    for line in page.read_text(encoding="utf-8").splitlines():
        found = re.match(r"\s*(?:\$ )?((?:make|trace-model|price-model) [^#]*)", line)
        if found and (line.startswith(("    ", "make ", "trace-model ", "price-model ", "$ "))):
            yield found[1].strip()


@cache
def names_in(path: Path) -> dict[str, set[str]]:
    """Top-level names of a Python file, each with the names inside it if it is a class."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = set(assigned(node.body))
        else:
            found |= {name: set() for name in assigned([node])}
    return found


def assigned(body: list[ast.stmt]) -> Iterator[str]:
    """Names that statements define."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def exists(dotted: str) -> bool:
    """Whether `package.module.Class.method` leads to a module and to names in it."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        file = base / "__init__.py" if (base / "__init__.py").exists() else base.with_suffix(".py")
        if file.exists():
            rest = parts[length:]
            names = names_in(file)
            if not rest:
                return True
            return rest[0] in names and (len(rest) == 1 or rest[1] in names[rest[0]])
    return False


@each_page
def test_files_exist(page: Path) -> None:
    """A path of the repository between backticks; one with a placeholder is a pattern and not checked."""
    missing = [s for s in spans(page) if FILE.fullmatch(s) and not (ROOT / s).exists()]
    assert not missing, missing


@each_page
def test_symbols_exist(page: Path) -> None:
    """A dotted name of our packages between backticks."""
    missing = [s for s in spans(page) if SYMBOL.fullmatch(s) and not exists(s)]
    assert not missing, missing


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link is a file, and its fragment a heading there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, fragment = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (fragment and fragment not in anchors(file)):
            broken.append(target)
    assert not broken, broken


def anchors(page: Path) -> set[str]:
    """Fragments that headings of a Markdown page answer to."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@each_page
def test_commands_exist(page: Path) -> None:
    """A make target is in the Makefile, and an option belongs to the command."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
    options = {
        name: {option for action in parser()._actions for option in action.option_strings}
        for name, parser in (("trace-model", tracer.cli.parser), ("price-model", models.cli.parser))
    }
    for command in commands(page):
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets, command
        else:
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert used <= options[words[0]], command


def test_the_checks_see_faults() -> None:
    """A renamed symbol or file would be noticed."""
    assert exists("oplib.ops.gemm.Gemm.flops")
    assert not exists("oplib.ops.gemm.Gemm.flop")
    assert not exists("oplib.ops.gem.Gemm")
    assert FILE.fullmatch("tracer/match/gemm.py")
    assert not FILE.fullmatch("oplib/ops/<op>.py")
