"""The sub-modules of a model on the terminal: a table for each representative layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = ("part", "role", "class", "alike", "weights", "ops")


def render_submodules(parts: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print one row per sub-module; `parts` are the objects that `--submodules --json` lists."""
    for layer, group in groupby(parts, lambda part: part["layer"]):
        rows = list(group)
        console.print(f"[bold]{layer}[/bold]  x{rows[0]['count']}", highlight=False)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in _COLUMNS:
            number = name in ("alike", "weights", "ops")
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for part in rows:
            name = part["name"].removeprefix(layer).lstrip(".") or "(all)"
            ops = str(len(part["ops"]["context"]))
            megabytes = f"{part['weight_bytes'] / 1e6:,.1f} MB"
            table.add_row(name, part["role"], part["class"], str(part["alike"]), megabytes, ops)
        console.print(table)
        console.print()
