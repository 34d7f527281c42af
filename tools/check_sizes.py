"""Fail on a file over 500 lines or a function over 80, unless tools/size_allow.txt says why."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
SUFFIXES = {".py", ".js", ".css", ".html"}
SKIPPED_FOLDERS = {"build", "dist", "golden", "node_modules"}
ROOT = Path(__file__).resolve().parent.parent


def source_files(root: Path) -> Iterator[Path]:
    """Source files under root, sorted, without hidden folders, environments and generated ones."""
    for path in sorted(root.iterdir()):
        if path.is_dir():
            generated = path.name in SKIPPED_FOLDERS or (path / "pyvenv.cfg").exists()
            if not (path.name.startswith(".") or generated):
                yield from source_files(path)
        elif path.suffix in SUFFIXES:
            yield path


def sizes(path: Path, name: str) -> Iterator[tuple[str, int, int]]:
    """(what, its lines, the limit) for the file and for each of its Python functions."""
    text = path.read_text(encoding="utf-8")
    yield name, len(text.splitlines()), MAX_FILE_LINES
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text, filename=name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{name}::{node.name}", lines, MAX_FUNCTION_LINES


def read_allowances(path: Path) -> dict[str, int]:
    """What may be longer, and how long; an entry without a reason is refused."""
    allowed = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split(maxsplit=2)
        if len(fields) < 3 or not fields[1].isdigit():
            raise SystemExit(f"{path.name}:{number}: expected '<what> <lines> <reason>': {line!r}")
        allowed[fields[0]] = int(fields[1])
    return allowed


def find_faults(root: Path, allowed: dict[str, int]) -> list[str]:
    """One line for each thing that is too long, and for each allowance that nothing needs."""
    faults, needed = [], set()
    for path in source_files(root):
        for what, lines, limit in sizes(path, path.relative_to(root).as_posix()):
            if lines > limit:
                needed.add(what)
                if lines > allowed.get(what, limit):
                    faults.append(f"{what}: {lines} lines, at most {allowed.get(what, limit)}")
    faults += [
        f"size_allow.txt: {what} needs no allowance" for what in sorted(allowed.keys() - needed)
    ]
    return faults


def main() -> int:
    faults = find_faults(ROOT, read_allowances(ROOT / "tools" / "size_allow.txt"))
    print("\n".join(faults) or "sizes: ok")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
