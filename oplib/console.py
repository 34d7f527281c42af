"""Text on a terminal of any width and encoding: what the reports of all commands draw with. Loads rich."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


class Terminal(Console):
    """Standard output whose reader may go, as behind `| head`: the command ends then, and not with rich's status."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def printable(text: str, console: Console) -> str:
    """The text with what the output's encoding lacks replaced."""
    encoding: str = console.encoding
    return text.encode(encoding, "replace").decode(encoding)


def line(console: Console, text: str | Text, *, indent: int = 0, style: str = "") -> None:
    """One paragraph; wrapped lines keep the indent, and nothing in it is markup."""
    body = text if isinstance(text, Text) else Text(text, style=style)
    body.plain = printable(body.plain, console)
    console.print(Padding(body, (0, 0, 0, indent), expand=False), highlight=False)


def cut(text: str, width: int, console: Console, *, head: bool = False) -> Text:
    """`text` in `width` cells; a longer one loses its end, or its head where names differ least."""
    text = printable(text, console)
    dots = "..." if console.options.ascii_only else "\N{HORIZONTAL ELLIPSIS}"
    if len(text) > width:
        kept = max(0, width - len(dots))
        text = dots + text[len(text) - kept :] if head else text[:kept] + dots
    return Text(text)


def heading(console: Console, title: str) -> None:
    """A blank line and a title."""
    console.print()
    line(console, title, style="bold")


def plain_table(*, show_header: bool = True) -> Table:
    """A table without lines."""
    return Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
        show_header=show_header,
        header_style="dim",
    )


def columns(table: Table, **columns: int) -> None:
    """Columns of fixed widths, negative for right-aligned. Texts are cut before they come here; a number that is wider
    goes on in the next line, whole."""
    for name, width in columns.items():
        table.add_column(
            name.strip("_"),
            width=abs(width),
            justify="right" if width < 0 else "left",
            overflow="fold",
        )


def bar(share: float, width: int, console: Console) -> str:
    """A bar of at most `width` cells, in eighths where the terminal can draw them."""
    if console.options.ascii_only:
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    part: str = ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    return "█" * (eighths // 8) + part
