"""docs/ops.md: every op kind with its docstring, parameters, dims, table columns and grid."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from oplib.kind import HEADINGS, OpKind
from oplib.params import Param, Required
from oplib.registry import op_kinds

HEAD = """\
# Op kinds

What each op computes and how its work, bytes and weights are counted. Letters of the workload: b batch, s new tokens
per sequence, p cached tokens per sequence; x = b*s. Conventions that all share: [conventions.md](conventions.md).
Fields of an op in a file: [op-list.md](op-list.md). A new op: [add-an-op.md](add-an-op.md)."""


def render() -> str:
    """The page."""
    kinds = op_kinds()
    lines = [HEAD, "", "| kind | role | varies with | in one line |", "|---|---|---|---|"]
    for name, kind in kinds.items():
        summary, _ = sections(kind)
        dims = ", ".join(f"`{dim}`" for dim in kind.dims)
        lines.append(
            f"| [{name}](#{name}) | {kind.role} | {dims} | {summary.split(':')[0].rstrip('.')} |"
        )
    for name, kind in kinds.items():
        lines += ["", *page(name, kind)]
    return "\n".join(lines) + "\n"


def sections(kind: OpKind) -> tuple[str, dict[str, str]]:
    """The docstring's summary and the text under each of its headings, each on one line."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(type(kind)) or "").splitlines():
        if line.rstrip(":") in HEADINGS and line.endswith(":"):
            current = line.rstrip(":")
            found[current] = []
        elif line.strip():
            found[current].append(line.strip())
    texts = {heading: " ".join(lines) for heading, lines in found.items()}
    return texts.pop(""), texts


def page(name: str, kind: OpKind) -> Iterator[str]:
    """The section of one kind."""
    summary, texts = sections(kind)
    yield f"## {name}"
    yield ""
    yield summary
    yield ""
    for heading, text in texts.items():
        yield f"- **{heading}**: {_plain(text)}"
    yield ""
    yield "| parameter | type | default | allowed | meaning |"
    yield "|---|---|---|---|---|"
    for param in kind.params:
        default = "required" if isinstance(param.default, Required) else f"`{param.default!r}`"
        yield f"| `{param.name}` | {param.type.__name__} | {default} | {_allowed(param)} | {param.doc} |"
    yield ""
    yield f"- Dims: {', '.join(f'`{dim}`' for dim in kind.dims)}." + _movable(kind)
    yield f"- Table columns: {', '.join(f'`{column}`' for column in kind.table_columns)}."
    grid = "; ".join(f"{dim} {', '.join(map(str, values))}" for dim, values in kind.grid().items())
    yield f"- Suggested grid: {grid}."


def _allowed(param: Param) -> str:
    if param.allowed:
        return ", ".join(f"`{value}`" for value in param.allowed)
    return f"at least {param.minimum}" if param.type in (int, float) else ""


def _movable(kind: OpKind) -> str:
    names = ", ".join(f"`{name}`" for name in kind.dim_params)
    return (
        f" Where they depend on the lengths, {names} are dims instead of parameters."
        if names
        else ""
    )


def _plain(text: str) -> str:
    """The text with what Markdown would read as markup quoted, code spans left alone."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for mark in "*_[<":
            parts[i] = parts[i].replace(mark, f"\\{mark}")
    return "`".join(parts)
