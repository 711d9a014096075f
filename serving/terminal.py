"""What a command shows, and where: a terminal of any width, a pipe that ends early, or nothing."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Collection
from typing import Any, TextIO

from rich.console import Console, ConsoleDimensions
from rich.table import Column, Table
from rich.text import Text

# Output that goes to no terminal has room.
_WIDTH_OF_A_FILE = 160
_NARROWEST_FOLDED = 20
# A pipe that nobody reads any more, and a terminal that was closed.
_NOBODY_LISTENS = (errno.EPIPE, errno.EIO)


def run_command(command: Callable[[], object]) -> None:
    """Runs a command line to its end, whatever its terminal, its files and its directory are.

    What nobody reads any more is dropped, and so is no reason to fail. A character that the
    terminal does not have is written as its number.

    Args:
      command: What parses the arguments and exits, such as a click group.
    """
    # On nothing, or the next file that is opened, such as a lock, is the standard output.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest number that is free: this one.
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _open(1, _NOBODY_LISTENS, sys.stdout)
    sys.stderr = _open(2, (), sys.stderr)
    try:
        os.getcwd()
    except OSError:
        sys.exit("the current directory does not exist any more: change to another one")
    try:
        command()
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # That was it. Python would try again when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(f"the output cannot be written: {error.strerror}")
        sys.exit(str(error))


def open_console() -> Console:
    """What a long command shows itself on: a copy of the standard output, which may go elsewhere.

    What cannot be shown is dropped, whatever the reason: a full disk must not harm the command.
    """
    screen = _open(os.dup(1), (), sys.stdout)
    if screen.isatty():
        return _TerminalConsole(file=screen, highlight=False)
    return Console(file=screen, highlight=False, width=_WIDTH_OF_A_FILE)


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints a table; where there is no room for it, each row as lines.

    Args:
      table: The table; its cells are texts.
      console: Where to print; None for the standard output.
    """
    if console is None:
        width = None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
        console = Console(highlight=False, width=width)
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
    """The width that a column needs to be read."""
    texts = [str(cell) for cell in (column.header, *column.cells)]
    if column.no_wrap:
        return max(map(len, texts))
    longest = max((len(word) for text in texts for word in text.split()), default=0)
    return max(column.min_width or 0, min(longest, _NARROWEST_FOLDED))


class _TerminalConsole(Console):
    """Is as wide as its own terminal, whatever the standard streams are."""

    @property
    def size(self) -> ConsoleDimensions:  # type: ignore[misc]  # It has a setter there.
        columns, lines = os.get_terminal_size(self.file.fileno())
        if not columns or os.environ.get("COLUMNS", "").isdigit():
            return super().size
        return ConsoleDimensions(columns, lines or 25)


class _Lenient(io.FileIO):
    """A file that drops what it cannot write for one of some reasons; without them, for any."""

    def __init__(self, descriptor: int, reasons: Collection[int]):
        super().__init__(descriptor, "wb", closefd=descriptor > 2)
        self._reasons = reasons

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if self._reasons and error.errno not in self._reasons:
                raise
            return memoryview(data).nbytes


def _open(descriptor: int, reasons: Collection[int], like: TextIO | None) -> io.TextIOWrapper:
    encoding = like.encoding if like else None
    raw = io.BufferedWriter(_Lenient(descriptor, reasons))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)
