"""Imports point one way, and torch loads only where the work needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers"}

# What each package may import of the others. Modules of a command line may compose (below).
MAY_IMPORT = {
    "oplib": set(),
    "perfdb": {"oplib"},
    "tracer": {"oplib", "perfdb"},
    "models": {"oplib", "perfdb"},
    "collector": {"oplib", "perfdb", "tracer", "models"},
}
TORCH_FREE = ("oplib", "perfdb", "models")


def is_cli(path: Path) -> bool:
    return path.name in {"cli.py", "__main__.py"} or "cli" in path.parts


def python_files(package: str) -> list[Path]:
    return [path.relative_to(ROOT) for path in sorted((ROOT / package).rglob("*.py"))]


def imported_roots(node: ast.AST) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of an import statement; a relative import stays in its package."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name.partition(".")[0], node.lineno
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module.partition(".")[0], node.lineno


def walk_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import: not the bodies of functions, not `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from walk_module_level(child)


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def find_direction_faults(tree: ast.AST, path: Path) -> list[str]:
    package = path.parts[0]
    forbidden = MAY_IMPORT.keys() - MAY_IMPORT[package] - {package}
    if is_cli(path):
        forbidden &= {"collector"}
    return [
        f"{path}:{line} imports {root}"
        for node in ast.walk(tree)
        for root, line in imported_roots(node)
        if root in forbidden
    ]


def find_heavy_imports(tree: ast.AST, path: Path) -> list[str]:
    return [
        f"{path}:{line} imports {root}"
        for node in walk_module_level(tree)
        for root, line in imported_roots(node)
        if root in HEAVY
    ]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_one_way(package: str) -> None:
    """oplib <- perfdb <- tracer, models <- collector; a command line may compose the first four."""
    faults = [
        fault
        for path in python_files(package)
        for fault in find_direction_faults(parse(path), path)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("package", [*TORCH_FREE, "tracer"])
def test_torch_is_not_imported_on_load(package: str) -> None:
    """Kernels apart, the torch-free packages and every command line load without torch."""
    files = [path for path in python_files(package) if path.parts[:2] != ("oplib", "kernels")]
    if package not in TORCH_FREE:
        files = [path for path in files if is_cli(path)]
    faults = [fault for path in files for fault in find_heavy_imports(parse(path), path)]
    assert not faults, "\n".join(faults)


def load_modules() -> list[str]:
    packages = [name for name in TORCH_FREE if (ROOT / name / "__init__.py").exists()]
    files = [path for name in MAY_IMPORT for path in python_files(name) if path.name == "cli.py"]
    clis = [".".join(path.with_suffix("").parts) for path in files]
    return packages + clis


def test_loading_pulls_in_no_torch() -> None:
    """What the parser cannot see, an import two packages away, shows in a fresh interpreter."""
    script = (
        "import importlib, sys\n"
        f"for name in {load_modules()!r}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"loading {load_modules()} also loads {done.stdout}"


@pytest.mark.parametrize(
    ("path", "source", "faults"),
    [
        ("oplib/op.py", "from perfdb.systems import System", 1),
        ("oplib/op.py", "def late():\n    import tracer", 1),
        ("tracer/report.py", "import oplib\nimport perfdb.systems", 0),
        ("tracer/report.py", "import models", 1),
        ("tracer/cli.py", "import models", 0),
        ("tracer/cli.py", "import collector", 1),
        ("models/memory.py", "from . import tracer", 0),
    ],
)
def test_direction_rule_sees(path: str, source: str, faults: int) -> None:
    """Late imports count, siblings are apart, a relative import stays in its own package."""
    assert len(find_direction_faults(ast.parse(source), Path(path))) == faults


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("import torch.nn", 1),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", 1),
        ("class A:\n    from transformers import AutoConfig", 1),
        ("def run():\n    import torch", 0),
        ("if TYPE_CHECKING:\n    import torch", 0),
    ],
)
def test_heavy_rule_sees(source: str, faults: int) -> None:
    """Only what runs on import counts."""
    assert len(find_heavy_imports(ast.parse(source), Path("perfdb/x.py"))) == faults
