"""Consoles and tables, for terminals of any width."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.table import Column, Table
from rich.text import Text

from terminal.streams import open_stream

# Width of output that is not a terminal.
_WIDTH_OF_A_FILE = 160
_NARROWEST_FOLDED = 20
# Without markup, since names and messages may have brackets and colons.
_LITERAL: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}


def open_console() -> Console:
    """A console for the progress of a long command: a copy of the standard output.

    Errors of output are ignored: a full disk must not harm the command.
    """
    screen = open_stream(os.dup(1), like=sys.stdout)
    if screen.isatty():
        return _TerminalConsole(file=screen, **_LITERAL)
    return Console(file=screen, width=_WIDTH_OF_A_FILE, **_LITERAL)


def standard_output() -> Console:
    """A console for the result of a command; errors of output are raised."""
    if sys.stdout.isatty():
        return _TerminalConsole(**_LITERAL)
    return Console(width=_WIDTH_OF_A_FILE, **_LITERAL)


def print_table(table: Table, console: Console) -> None:
    """Prints a table; if it is too wide, each row as lines.

    Args:
      table: The table; its cells are texts.
      console: The console.
    """
    needed = sum(map(_width, table.columns))
    for gap in (2, 1):
        if needed + gap * (len(table.columns) - 1) <= console.width:
            table.padding = (0, gap, 0, 0)
            console.print(table)
            return
    if table.title:
        console.print(table.title, soft_wrap=True)
    for number, row in enumerate(table.rows):
        cells = [(str(column.header), str([*column.cells][number])) for column in table.columns]
        for name, text in cells:
            if text:
                console.print(Text(f"{name}: {text}", row.style or ""), soft_wrap=True)
        console.print()


def _width(column: Column) -> int:
    """The smallest readable width of a column."""
    texts = [str(cell) for cell in (column.header, *column.cells)]
    if column.no_wrap:
        return max(map(len, texts))
    longest = max((len(word) for text in texts for word in text.split()), default=0)
    return max(column.min_width or 0, min(longest, _NARROWEST_FOLDED))


class _TerminalConsole(Console):
    """A console as wide as its own terminal, not that of the standard streams."""

    @property  # type: ignore[misc]  # It has a setter there.
    def size(self) -> ConsoleDimensions:
        try:
            columns, lines = os.get_terminal_size(self.file.fileno())
        except OSError:  # The terminal was closed.
            columns = 0
        if not columns or os.environ.get("COLUMNS", "").isdigit():
            return super().size
        return ConsoleDimensions(columns, lines or 25)
