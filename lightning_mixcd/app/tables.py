"""Tables in the terminal."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_table", "wide_console"]


def wide_console() -> Console:
    """Return where to print: wide enough for tables where there is no terminal to ask."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def print_table(
    console: Console, title: str, texts: Mapping[str, Sequence[str]], *, caption: str | None = None
) -> None:
    """Print columns as a table.

    Args:
        console: Where.
        title: What stands above it.
        texts: Texts by column; that of `method` is aligned to the left.
        caption: What stands below it.
    """
    table = Table(title=title, caption=caption)
    for head in texts:
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    for line in zip(*texts.values(), strict=True):
        table.add_row(*map(escape, line))
    console.print(table)
