"""docs/cli.md: the commands of pyproject.toml with their arguments, read off their parsers.

The parser's actions are read rather than its `--help` text: argparse words that text anew in every Python version.
"""

from __future__ import annotations

import argparse
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = """\
Data goes to stdout, progress to stderr. An error is one line on stderr; with `--json` it is also
`{"error": {"kind", "message", "hint"}}` on stdout. There is no environment variable of our own."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command that the project installs; each command's module has a `parser()`."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "scripts"
    ]
    modules = {
        name: importlib.import_module(target.split(":")[0]) for name, target in scripts.items()
    }
    return {name: module.parser() for name, module in sorted(modules.items())}


def render() -> str:
    """The page."""
    lines = ["# Commands", "", COMMON]
    for name, parser in parsers().items():
        lines += [
            "",
            f"## {name}",
            "",
            str(parser.description),
            "",
            "| argument | meaning |",
            "|---|---|",
        ]
        lines += rows(parser)
        if parser.epilog:
            lines += ["", parser.epilog[0].upper() + parser.epilog[1:] + "."]
    return "\n".join(lines) + "\n"


def rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    """One table row per argument, positional ones first."""
    actions = sorted(parser._actions, key=lambda action: bool(action.option_strings))
    for action in actions:
        if isinstance(action, argparse._HelpAction):
            continue
        spelling = ", ".join(action.option_strings) or str(action.metavar or action.dest).upper()
        if action.option_strings and action.nargs != 0:
            spelling += " " + (
                action.metavar or "|".join(action.choices or ()) or action.dest.upper()
            )
        yield f"| `{spelling.replace('|', chr(92) + '|')}` | {action.help} |"
